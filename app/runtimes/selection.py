"""Selection of the runtime that computes a model on a device."""

import sys

from app.runtimes.base import CompiledModel, Runtime, Target
from app.runtimes.cuda_graphs import CudaGraphRuntime
from app.runtimes.flops import is_compute_bound
from app.runtimes.mnn import MnnRuntime
from app.runtimes.onnx import MAX_COPIED_BYTES, OnnxRuntime, largest_network_bytes
from app.runtimes.torch_eager import TorchRuntime
from app.settings import Settings, SettingsError
from model.formats.native import NativeModel
from model.interface import ImageModel

CPU_RUNTIMES: dict[str, Runtime] = {"torch": TorchRuntime(), "onnxruntime": OnnxRuntime(), "mnn": MnnRuntime()}
GPU_RUNTIMES: dict[str, Runtime] = {"torch": CudaGraphRuntime()}


def compile_model(model: ImageModel, settings: Settings, target: Target) -> CompiledModel:
    """Compile a model for the runtime that the settings name, or the one that is expected to be the fastest.

    Raises `CheckpointError` for a model that the runtime cannot compute, `SettingsError` as `choose_runtime` does.
    """
    runtimes = CPU_RUNTIMES if target.device.type == "cpu" else GPU_RUNTIMES
    return runtimes[choose_runtime(settings, target, model)].compile(model, target)


def choose_runtime(settings: Settings, target: Target, model: ImageModel) -> str:
    """Return the name of the runtime. Raises `SettingsError` for one that does not fit the other settings."""
    plain_cpu = target.device.type == "cpu" and target.precision == "float32"
    if settings.runtime in ("onnxruntime", "mnn") and not plain_cpu:
        msg = f"runtime: {settings.runtime} serves float32 on a CPU, not {target.precision} on {target.device.type}"
        raise SettingsError(msg)
    if settings.runtime == "mnn" and (settings.batch_invariant or sys.platform != "linux"):
        raise SettingsError("runtime: mnn serves on Linux, where answers may depend on the load in their last bits")
    if settings.runtime != "auto":
        return settings.runtime
    if not plain_cpu or not isinstance(model, NativeModel):
        return "torch"
    allowed = sys.platform == "linux" and not settings.batch_invariant
    large = largest_network_bytes(model.vae) <= MAX_COPIED_BYTES and is_compute_bound(model.vae)
    return "mnn" if allowed and large else "onnxruntime"
