"""MNN: computes 3x3 convolutions by Winograd's algorithm (Lavin and Gray 2016), with less than half of the products.

It rounds as well as others, but the last bits of a row depend on its batch. So ONNX Runtime computes deterministic
batches of the same model, see `app.runtimes.mixed`. MNN is an optional dependency.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from app.runtimes.base import Target
from app.runtimes.onnx import with_networks
from app.runtimes.onnx_export import INPUT, OUTPUT, onnx_model
from app.runtimes.onnx_session import memory_file, path_of
from app.runtimes.torch_eager import TorchModel
from model.interface import ImageModel

CONVERT_SCRIPT = """
import sys
import _tools  # not MNN.tools, which reports each conversion to its maker
_tools.mnnconvert(["", "-f", "ONNX", "--modelFile", sys.argv[1], "--MNNModel", sys.argv[2], "--bizCode", "MNN"])
"""


class MnnModel(TorchModel):
    """A model with networks that MNN computes; torch computes the steps around them."""

    runtime = "mnn"


class MnnRuntime:
    """Compiles models of this project for MNN, on Linux."""

    def compile(self, model: ImageModel, target: Target) -> MnnModel:
        """Compile the networks for MNN."""
        return MnnModel(with_networks(model, target.threads, MnnNetwork), target)


class MnnNetwork(nn.Module):
    """A network that MNN computes on so many threads, from float32 [B, *shape]; not for two threads at once."""

    _shape: tuple[int, ...]

    def __init__(self, network: nn.Sequential, shape: tuple[int, ...], threads: int) -> None:
        super().__init__()
        with _silence_stdout():
            import MNN  # noqa: PLC0415
        with memory_file() as own:
            _convert(onnx_model(network, shape).SerializeToString(), own)
            self._mnn, self._interpreter = MNN, MNN.Interpreter(path_of(own))
        self._threads = threads
        self._create_session()

    def forward(self, x: Tensor) -> Tensor:
        if self._shape != x.shape:
            self._shape = tuple(x.shape)
            self._interpreter.resizeTensor(self._x, self._shape)
            self._interpreter.resizeSession(self._session)
        self._x.copyFrom(self._as_mnn_tensor(x.contiguous().numpy()))
        if self._interpreter.runSession(self._session):
            self._create_session()
            raise MemoryError(f"MNN has not enough memory for a batch of {len(x)}")
        y = np.empty(self._y.getShape(), np.float32)
        there = self._as_mnn_tensor(y)
        self._y.copyToHostTensor(there)
        return torch.from_numpy(there.getNumpyData().copy())

    def _create_session(self) -> None:
        """Create a session; one that has failed cannot be used again."""
        with _silence_stdout():
            self._session = self._interpreter.createSession({"numThread": self._threads, "precision": "high"})
        self._x = self._interpreter.getSessionInput(self._session, INPUT)
        self._y = self._interpreter.getSessionOutput(self._session, OUTPUT)
        self._shape = ()

    def _as_mnn_tensor(self, values: np.ndarray) -> Any:
        mnn = self._mnn
        return mnn.Tensor(values.shape, mnn.Halide_Type_Float, values, mnn.Tensor_DimensionType_Caffe)


def _convert(graph: bytes, own: BinaryIO) -> None:
    """Convert an ONNX graph to MNN's format; in another process, because the conversion holds the interpreter lock."""
    with memory_file(graph) as file:
        words = [sys.executable, "-c", CONVERT_SCRIPT, path_of(file), path_of(own)]
        done = subprocess.run(words, pass_fds=(file.fileno(), own.fileno()), capture_output=True, check=False)  # noqa: S603  # a fixed command
    if not os.fstat(own.fileno()).st_size:
        raise RuntimeError(
            f"MNN does not read the graph: {(done.stdout + done.stderr).decode(errors='replace')[-500:]}"
        )


@contextmanager
def _silence_stdout() -> Iterator[None]:
    """Discard what C and C++ print meanwhile: it would stand among the lines of the log."""
    flush, out = ctypes.CDLL(None).fflush, os.dup(1)
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  # for its number
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        flush(None)
        os.dup2(out, 1)
        os.close(out)
