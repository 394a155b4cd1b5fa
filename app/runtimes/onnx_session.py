"""Sessions of ONNX Runtime, and files in memory from which they read their graphs."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO

import torch
from onnx import ModelProto

from app.runtimes.thread_affinity import PinnedSession
from model.files import CheckpointError
from model.formats.onnx.graph import Graph
from model.formats.onnx.sessions import FATAL_ONLY, Session, onnxruntime, open_session

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def create_session(model: ModelProto, threads: int) -> Any:
    """Create a session of ONNX Runtime that computes a graph on so many threads of the CPU."""
    start = partial(onnxruntime().InferenceSession, sess_options=_options(threads), providers=[CPU])
    return _started(start, model.SerializeToString(), threads)


def open_on_threads(graph: Graph, threads: int, *, keep_memory: bool) -> Session:
    """Open the graph of an ONNX pair on so many threads of the CPU. Raises `CheckpointError`.

    With `keep_memory` the session keeps the memory of its largest batch for the next one.
    """
    options = _options(threads)
    options.enable_cpu_mem_arena = keep_memory
    start = partial(open_session, graph, options, [CPU])
    session: Session = _started(start, graph.content, threads)
    return session


def open_on_gpu(graph: Graph, device: torch.device) -> Session:
    """Open the graph of an ONNX pair on a GPU. Raises `CheckpointError`."""
    options = _options(1)
    options.use_deterministic_compute = True  # else the same seed gives other bits each time
    provider = {
        "device_id": device.index or 0,
        "use_tf32": 0,  # else a result depends on the shape of its batch
        "cudnn_conv_algo_search": "HEURISTIC",  # an exhaustive search repeats for each shape
    }
    session: Any = open_session(graph, options, [(CUDA, provider), CPU])
    if CUDA not in session.get_providers():  # ONNX Runtime goes on without libraries that it does not find
        raise CheckpointError(f"{graph.path}: ONNX Runtime found no usable CUDA and cuDNN for {device}")
    opened: Session = session
    return opened


def has_cuda() -> bool:
    """Whether this build of ONNX Runtime computes on GPUs."""
    return CUDA in onnxruntime().get_available_providers()


@contextmanager
def memory_file(content: bytes = b"") -> Iterator[BinaryIO]:
    """Open a file in memory with this content; Linux only."""
    with open(os.memfd_create("network"), "wb") as file:  # noqa: PTH123  # it has no name
        file.write(content)
        file.flush()
        yield file


def path_of(file: BinaryIO) -> str:
    """Return a path by which this process can open the file."""
    return f"/proc/self/fd/{file.fileno()}"


def _options(threads: int) -> Any:
    options = onnxruntime().SessionOptions()
    options.log_severity_level = FATAL_ONLY
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False  # it keeps memory for each size of batch, and no size was seen to gain by it
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning takes cores from the event loop
    return options


def _started(start: Callable[[Any], Any], content: bytes, threads: int) -> Any:
    """Return the session that `start` creates from a path or from bytes."""
    if sys.platform != "linux":
        return start(content)
    with memory_file(content) as file:  # a session keeps a copy of a model that is given as bytes
        return PinnedSession(partial(start, path_of(file))) if threads > 1 else start(path_of(file))
