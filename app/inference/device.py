"""The compute device, a CPU or a GPU: placement of models, and translation of errors."""

from collections.abc import Callable
from typing import TypeVar

import torch

from app.batching.executor import DeviceLost, OutOfMemory
from app.batching.rows import RowBatch
from app.inference.core_sharing import CoreUsage
from app.inference.device_errors import diagnose, release
from app.resources import available_cpus, largest_batch, threads
from app.runtimes.base import CompiledModel, Target
from app.settings import Settings, SettingsError
from model.device import disable_tf32
from model.errors import UserError

T = TypeVar("T")


def configure_torch(settings: Settings) -> None:
    """Set the options of torch that apply to the whole process, before a model is compiled."""
    torch.set_num_threads(threads(settings))
    disable_tf32()  # else a result depends on the shape of its batch
    torch.backends.cudnn.deterministic = True  # else the same seed gives other bits each time


class TorchDevice:
    """The device that the settings name. Raises `UserError` for one that does not exist."""

    def __init__(self, settings: Settings) -> None:
        device = choose_device(settings.device)
        self.target = Target(device, settings.precision, threads(settings), settings.threads or available_cpus())
        if settings.precision == "float16" and not self.is_gpu:
            raise SettingsError("precision: expected float32 or bfloat16 on a CPU, got float16")
        self.max_batch_size = largest_batch(settings, gpu=self.is_gpu)

    def __str__(self) -> str:
        return str(self.target.device)

    @property
    def is_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.target.device.type == "cuda"

    def memory(self) -> int:
        """Return the bytes of GPU memory that torch holds; 0 on a CPU."""
        return torch.cuda.memory_reserved(self.target.device) if self.is_gpu else 0

    def translating_errors(self, compute: Callable[[], T]) -> T:
        """Return what `compute` does; raise `OutOfMemory` or `DeviceLost` where that is the cause of its error."""
        try:
            return compute()
        except Exception as failure:
            fault = diagnose(failure, self.target.device)
            if fault is None:
                raise
        raise self.recovered_from(fault)

    def recovered_from(self, fault: OutOfMemory | DeviceLost) -> OutOfMemory | DeviceLost:
        """Free cached memory after an out-of-memory error; to be called after the `except`, which holds tensors."""
        if isinstance(fault, OutOfMemory):
            release(self.target.device)
        return fault


class DeviceModel:
    """A compiled model on a device that other workers may share."""

    def __init__(self, compiled: CompiledModel, device: TorchDevice, core_usage: CoreUsage) -> None:
        self.compiled = compiled
        self.device = device
        self.core_usage = core_usage
        self._has_single_row_networks = compiled.has_single_row_networks

    def run(self, operation: str, rows: RowBatch, *, deterministic: bool, single: bool = False) -> RowBatch:
        """Compute a batch as `CompiledModel.run` does. Raises `OutOfMemory` or `DeviceLost`."""
        try:
            if not self._has_single_row_networks:  # then the workers do not need to know of each other
                return self.compiled.run(operation, rows, deterministic=deterministic)
            single = single and self.core_usage.others_idle
            with self.core_usage:
                return self.compiled.run(operation, rows, deterministic=deterministic, single=single)
        except Exception as failure:
            fault = diagnose(failure, self.device.target.device)
            if fault is None:
                raise
        raise self.device.recovered_from(fault)

    def recompiled(self, compiled: CompiledModel) -> "DeviceModel":
        """Return the model compiled in another way, on the same device."""
        return DeviceModel(compiled, self.device, self.core_usage)


def choose_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is the GPU if there is one. Raises `UserError` if it does not exist."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda:0" if available else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= available:
        here = f"one of the {available} CUDA devices" if available else "cpu, as there is no CUDA device"
        raise UserError(f"device: expected {here} here, got {name}")
    return device
