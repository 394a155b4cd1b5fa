"""Selection of the runtime that computes a model: the one of the settings, or the fastest on this machine."""

import logging
import math
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec

from app.context import Operation
from app.runtimes.base import CompiledModel, Runtime, Target
from app.runtimes.cuda_graphs import CudaGraphRuntime
from app.runtimes.flops import is_compute_bound
from app.runtimes.mixed import MixedModel, MixedRuntime
from app.runtimes.mnn import MnnRuntime
from app.runtimes.onnx import MAX_COPIED_BYTES, OnnxRuntime, largest_network_bytes
from app.runtimes.onnx_pairs import check_settings, compile_pair
from app.runtimes.operations import examples
from app.runtimes.torch_eager import TorchRuntime
from app.settings import Settings, SettingsError
from model.formats.native import NativeModel
from model.formats.onnx.pair import OnnxPair
from model.interface import ImageModel

log = logging.getLogger(__name__)

MEASURED_SIZES = (1, 16)
"""Batch sizes in which runtimes are compared."""

MAX_RUNS = 4
"""Number of times that each size is measured; the runs of all runtimes are interleaved."""

MEASURE_SECONDS = 1.5
"""Seconds after which no further run is measured."""

MIN_SPEEDUP = 1.1
"""Speedup over ONNX Runtime alone that pays for a second runtime: seeded requests then have batches of their own."""

RUNTIMES: Mapping[str, Runtime] = {
    "torch": TorchRuntime(),
    "onnxruntime": OnnxRuntime(),
    "mnn": MixedRuntime(MnnRuntime()),
}

Timings = dict[str, dict[int, float]]


def compile_model(model: ImageModel, settings: Settings, target: Target) -> CompiledModel:
    """Compile a model for the runtime of the settings; `auto` measures the runtimes that fit and takes the fastest.

    Raises `CheckpointError` for a model that the runtime cannot compute, `SettingsError` as `allowed_runtimes` does.
    """
    target = target.for_model(model.spec)
    names = allowed_runtimes(settings, target, model)
    if isinstance(model, OnnxPair):
        return compile_pair(model, target)
    if target.device.type == "cuda":
        return CudaGraphRuntime().compile(model, target)
    if len(names) == 1:
        return RUNTIMES[names[0]].compile(model, target)
    largest = settings.max_batch_size or max(MEASURED_SIZES)
    return _fastest(_candidates(names, model, target), sorted({min(size, largest) for size in MEASURED_SIZES}))


def allowed_runtimes(settings: Settings, target: Target, model: ImageModel) -> tuple[str, ...]:
    """Return the names of the runtimes that may compute a model.

    With `auto` on a CPU, seeded requests are always computed by ONNX Runtime, so that a seed gives the same bytes in
    all workers. Raises `SettingsError` for a runtime that is not installed or does not fit the other settings.
    """
    if isinstance(model, OnnxPair):
        check_settings(settings, target)
        return ("onnxruntime",)
    plain_cpu = target.device.type == "cpu" and target.precision == "float32"
    if settings.runtime in ("onnxruntime", "mnn") and not plain_cpu:
        msg = f"runtime: {settings.runtime} serves float32 on a CPU, not {target.precision} on {target.device.type}"
        raise SettingsError(msg)
    if settings.runtime == "mnn":
        _require_mnn(settings)
    if settings.runtime != "auto":
        return (settings.runtime,)
    if not plain_cpu or not isinstance(model, NativeModel):
        return ("torch",)
    if settings.batch_invariant or largest_network_bytes(model.vae) > MAX_COPIED_BYTES:
        return ("onnxruntime",)
    if not is_compute_bound(model.vae):  # around small networks the steps of other runtimes take longer
        return ("onnxruntime",)
    return ("onnxruntime", "torch", "mnn") if mnn_is_installed() else ("onnxruntime", "torch")


def mnn_is_installed() -> bool:
    """Whether MNN can be imported; it is an optional dependency, for Linux."""
    return sys.platform == "linux" and find_spec("MNN") is not None


def _require_mnn(settings: Settings) -> None:
    if settings.batch_invariant or sys.platform != "linux":
        raise SettingsError("runtime: mnn serves on Linux, where answers may depend on the load in their last bits")
    if not mnn_is_installed():
        raise SettingsError("runtime: mnn is not installed; pip install 'vae-service[mnn]'")


def _candidates(names: tuple[str, ...], model: ImageModel, target: Target) -> dict[str, CompiledModel]:
    """Compile a model for ONNX Runtime, and for each other runtime beside it."""
    deterministic = OnnxRuntime().compile(model, target)
    fast: dict[str, Runtime] = {"torch": TorchRuntime(), "mnn": MnnRuntime()}
    others = {name: fast[name].compile(model, target) for name in names if name in fast}
    return {"onnxruntime": deterministic, **{n: MixedModel(deterministic, other) for n, other in others.items()}}


def _fastest(candidates: Mapping[str, CompiledModel], sizes: list[int]) -> CompiledModel:
    """Return the fastest of the compiled models; ONNX Runtime unless another one is faster by `MIN_SPEEDUP`."""
    timings = _measure(candidates, sizes)
    means = {name: math.prod(seconds.values()) ** (1 / len(sizes)) for name, seconds in timings.items()}
    means["onnxruntime"] /= MIN_SPEEDUP
    chosen = min(means, key=means.__getitem__)
    figures = ", ".join(
        f"{name} {' '.join(f'{1000 * seconds[size] / size:.1f}' for size in sizes)}"
        for name, seconds in timings.items()
    )
    log.info("runtime: %s; ms per image in batches of %s: %s", chosen, " and ".join(map(str, sizes)), figures)
    return candidates[chosen]


def _measure(candidates: Mapping[str, CompiledModel], sizes: list[int]) -> Timings:
    """Measure the shortest time of a reconstruction by each candidate, for each size."""
    rows = examples(next(iter(candidates.values())).model.spec, max(sizes))[Operation.RECONSTRUCT]
    timings: Timings = {name: dict.fromkeys(sizes, math.inf) for name in candidates}
    end = time.monotonic() + MEASURE_SECONDS
    for number in range(MAX_RUNS):
        for size in sizes:
            for name, compiled in candidates.items():
                if number and time.monotonic() > end:
                    return timings
                start = time.monotonic()
                compiled.run(Operation.RECONSTRUCT, rows[:size], deterministic=False)
                timings[name][size] = min(timings[name][size], time.monotonic() - start)
    return timings
