"""Sessions of ONNX Runtime, and files in memory from which they read their graphs."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO

from onnx import ModelProto

from app.runtimes.thread_affinity import PinnedSession

FATAL_ONLY = 4
"""Log level of ONNX Runtime. All other failures of a batch are raised as well."""


def create_session(model: ModelProto, threads: int) -> Any:
    """Create a session of ONNX Runtime that computes a graph on so many threads."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at the import, which else begins to report machine and model
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False  # it keeps memory for each size of batch, and no size was seen to gain by it
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning takes cores from the event loop
    start = partial(onnxruntime.InferenceSession, sess_options=options, providers=["CPUExecutionProvider"])
    if sys.platform != "linux":
        return start(model.SerializeToString())
    with memory_file(model.SerializeToString()) as file:  # a session keeps a copy of a model that is given as bytes
        return PinnedSession(partial(start, path_of(file))) if threads > 1 else start(path_of(file))


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
