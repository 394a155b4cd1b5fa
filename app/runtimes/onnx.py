"""Networks that others than torch compute on a processor, in fewer and larger steps: ONNX Runtime, and MNN.

MNN computes 3x3 convolutions by Winograd's algorithm (Lavin and Gray 2016), which multiplies less than half as often
and rounds as well; but the last bits of a row depend on the batch that it shares. Each keeps weights of its own.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor, nn

from app.runtimes.onnx_graph import INPUT, OUTPUT, onnx_model
from app.runtimes.thread_affinity import PinnedSession

QUIET = 4
"""Of ONNX Runtime's own log, what is fatal alone: all else that befalls a batch it raises as well."""


CONVERT = """
import sys
import _tools  # not MNN.tools, which reports each conversion to its maker
_tools.mnnconvert(["", "-f", "ONNX", "--modelFile", sys.argv[1], "--MNNModel", sys.argv[2], "--bizCode", "MNN"])
"""


class OnnxNetwork(nn.Module):
    """A network that ONNX Runtime computes on so many threads: float32 [B, *shape] to what the network gives."""

    def __init__(self, network: nn.Sequential, shape: tuple[int, ...], threads: int) -> None:
        super().__init__()
        self._session = session(onnx_model(network, shape), threads)

    def forward(self, x: Tensor) -> Tensor:
        (y,) = self._session.run(None, {INPUT: x.contiguous().numpy()})
        return torch.from_numpy(y)


def session(model: ModelProto, threads: int) -> Any:
    """One of ONNX Runtime, that computes the graph on so many threads."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else its import begins to tell its maker of machine and model
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.log_severity_level = QUIET
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False  # it keeps memory for each size of batch, and no size was seen to gain by it
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the event loop wants the cores too
    start = partial(onnxruntime.InferenceSession, sess_options=options, providers=["CPUExecutionProvider"])
    if sys.platform != "linux":
        return start(model.SerializeToString())
    with _in_memory(model.SerializeToString()) as file:  # of a model that comes as bytes a session keeps them for good
        return PinnedSession(partial(start, _path(file))) if threads > 1 else start(_path(file))


class MnnNetwork(nn.Module):
    """A network that MNN computes on so many threads, for one caller at a time; as `OnnxNetwork`, on Linux."""

    _shape: tuple[int, ...]

    def __init__(self, network: nn.Sequential, shape: tuple[int, ...], threads: int) -> None:
        super().__init__()
        with _hushed():
            import MNN  # noqa: PLC0415
        with _in_memory() as own:
            _convert(onnx_model(network, shape).SerializeToString(), own)
            self._mnn, self._interpreter = MNN, MNN.Interpreter(_path(own))
        self._threads = threads
        self._begin()

    def forward(self, x: Tensor) -> Tensor:
        if self._shape != x.shape:
            self._shape = tuple(x.shape)
            self._interpreter.resizeTensor(self._x, self._shape)
            self._interpreter.resizeSession(self._session)
        self._x.copyFrom(self._host(x.contiguous().numpy()))
        if self._interpreter.runSession(self._session):
            self._begin()
            raise MemoryError(f"MNN has not enough memory for a batch of {len(x)}")
        y = np.empty(self._y.getShape(), np.float32)
        there = self._host(y)
        self._y.copyToHostTensor(there)
        return torch.from_numpy(there.getNumpyData().copy())

    def _begin(self) -> None:
        """A session anew: one that has failed is of no more use."""
        with _hushed():
            self._session = self._interpreter.createSession({"numThread": self._threads, "precision": "high"})
        self._x = self._interpreter.getSessionInput(self._session, INPUT)
        self._y = self._interpreter.getSessionOutput(self._session, OUTPUT)
        self._shape = ()

    def _host(self, values: np.ndarray) -> Any:
        mnn = self._mnn
        return mnn.Tensor(values.shape, mnn.Halide_Type_Float, values, mnn.Tensor_DimensionType_Caffe)


def _convert(graph: bytes, own: BinaryIO) -> None:
    """Write an ONNX graph as MNN's own; in another process, because this one would stand still meanwhile."""
    with _in_memory(graph) as file:
        words = [sys.executable, "-c", CONVERT, _path(file), _path(own)]
        done = subprocess.run(words, pass_fds=(file.fileno(), own.fileno()), capture_output=True, check=False)  # noqa: S603  # our own words
    if not os.fstat(own.fileno()).st_size:
        raise RuntimeError(
            f"MNN does not read the graph: {(done.stdout + done.stderr).decode(errors='replace')[-500:]}"
        )


@contextmanager
def _in_memory(content: bytes = b"") -> Iterator[BinaryIO]:
    """A file that is on no disk: a service may have none that it can write to."""
    with open(os.memfd_create("network"), "wb") as file:  # noqa: PTH123  # it has no name
        file.write(content)
        file.flush()
        yield file


def _path(file: BinaryIO) -> str:
    return f"/proc/self/fd/{file.fileno()}"


@contextmanager
def _hushed() -> Iterator[None]:
    """Nothing that is printed meanwhile, by C or C++, comes out: it would stand among the lines of other programs."""
    flush, out = ctypes.CDLL(None).fflush, os.dup(1)
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  # for its number
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        flush(None)
        os.dup2(out, 1)
        os.close(out)
