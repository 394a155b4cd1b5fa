"""ONNX Runtime for pairs of ONNX graphs, on a CPU or by its CUDA provider; torch computes the steps around them."""

from dataclasses import replace
from functools import partial

import torch

from app.runtimes.base import Target
from app.runtimes.onnx import MAX_COPIED_BYTES, OnnxModel
from app.runtimes.onnx_session import has_cuda, open_on_gpu, open_on_threads
from app.runtimes.torch_eager import TorchModel
from app.settings import Settings, SettingsError
from model.formats.onnx.pair import OnnxPair
from model.interface import FixedSize

CPU = torch.device("cpu")


def check_settings(settings: Settings, target: Target) -> None:
    """Raise `SettingsError` for settings that do not fit an ONNX pair."""
    if settings.runtime not in ("auto", "onnxruntime"):
        raise SettingsError(f"runtime: expected auto or onnxruntime for an ONNX pair, got {settings.runtime}")
    if target.precision != "float32":
        expected = "float32 for an ONNX pair, which computes in the precision of its graphs"
        raise SettingsError(f"precision: expected {expected}, got {target.precision}")
    if target.device.type == "cuda" and not has_cuda():
        hint = "pip install onnxruntime-gpu in place of onnxruntime, or choose the device cpu"
        raise SettingsError(f"device: an ONNX pair needs onnxruntime-gpu on {target.device}, which is missing; {hint}")


def compile_pair(model: OnnxPair, target: Target) -> OnnxModel:
    """Open the graphs of a pair on a device. Raises `CheckpointError` for graphs that cannot be computed.

    On a CPU a single row may use more threads than a batch, by a second copy of the weights if they are small.
    """
    around = replace(target, device=CPU)
    if target.device.type == "cuda":
        batched = TorchModel(model.open(partial(open_on_gpu, device=target.device)), around)
        return OnnxModel(batched, batched, {})
    # Memory that is kept fits batches of the same size again; beside images of many sizes it is out of use.
    open_session = partial(open_on_threads, keep_memory=isinstance(model.spec.sizes, FixedSize))
    batched = single = TorchModel(model.open(partial(open_session, threads=target.threads)), around)
    if target.max_threads > target.threads and _weight_bytes(model) <= MAX_COPIED_BYTES:
        single = TorchModel(model.open(partial(open_session, threads=target.max_threads)), around)
    return OnnxModel(batched, single, {})


def _weight_bytes(model: OnnxPair) -> int:
    return sum(
        len(graph.content) + sum(map(len, graph.weight_files.values())) for graph in (model.encoder, model.decoder)
    )
