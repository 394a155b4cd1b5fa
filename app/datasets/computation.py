"""Computation of batches offline: the networks as the service compiles them, without its queue and its warm-up."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from math import prod
from threading import Lock

import numpy as np

from app.batching.executor import DeviceLost, OutOfMemory
from app.batching.rows import RowBatch
from app.context import Operation
from app.datasets.options import Hardware
from app.inference.core_sharing import CoreUsage
from app.inference.device import DeviceModel, TorchDevice, configure_torch
from app.inference.image_sizes import Size
from app.resources import available_cpus
from app.runtimes.flops import flops_of
from app.runtimes.operations import examples
from app.runtimes.selection import compile_model
from app.settings import Settings
from model.errors import UserError
from model.interface import FixedSize, ImageModel

MAX_BATCH_PIXELS = {"cpu": 2**18, "cuda": 2**22}
"""Pixels of the images of one batch, by the kind of device; larger batches gain nothing and take memory."""

LARGE_FLOPS = 1e10
"""Operations of one image, encoded and decoded, from which a CPU computes one batch at a time on all threads.

Several batches at once on a thread each are faster for small images, but each takes memory of its own.
"""

COMPARISON_SECONDS = 10.0
"""Time to compare each row of a batch with the row alone, see ADR 5."""


class BatchComputation:
    """A model on one device, with the threads that read and decode for it.

    `batch_size` is the number of rows of a batch of images of one size. Results of rows do not depend on the other rows
    where `invariant`; with `row_by_row` each row is computed alone where that is not so. Used by one caller.
    """

    def __init__(self, model: ImageModel, hardware: Hardware, device: str, *, row_by_row: bool = False) -> None:
        probe = TorchDevice(hardware.settings(device))
        threads = hardware.threads or available_cpus()
        self.slots = threads if not probe.is_gpu and not _is_large(model) else 1
        settings = hardware.settings(device, 1 if probe.is_gpu else threads // self.slots)
        configure_torch(settings)
        self.spec = model.spec
        self.precision = settings.precision
        self._device = TorchDevice(settings)
        self._model = self._compiled(model, settings)
        self._most = settings.max_batch_size or self._device.max_batch_size
        self._pixels = sys.maxsize if settings.max_batch_size else MAX_BATCH_PIXELS[self._device.target.device.type]
        self.invariant = self._find_invariance()
        self._by_row = row_by_row and not self.invariant
        self.threads = ThreadPoolExecutor(threads, "decode")
        self.device_threads = self.threads if self.slots == threads else ThreadPoolExecutor(1, "device")
        self.ahead = threads + 1
        self._clock = BusyClock(self.slots)

    @property
    def shares_threads(self) -> bool:
        """Whether the threads that read and decode compute as well."""
        return self.device_threads is self.threads

    def __str__(self) -> str:
        return f"{self._device}, {self.precision}, {self._model.compiled.runtime}"

    def close(self) -> None:
        """End the threads after the work in progress."""
        self.device_threads.shutdown(cancel_futures=True)
        self.threads.shutdown(cancel_futures=True)

    @property
    def waited(self) -> float:
        """The share of the time since the first batch in which the device computed nothing."""
        return self._clock.idle

    def batch_size(self, size: Size) -> int:
        """Return the number of images of one size (H, W) in a batch."""
        return max(1, min(self._most, self._pixels // prod(size)))

    def run(self, operation: Operation, *columns: np.ndarray, size: Size) -> tuple[np.ndarray, ...]:
        """Compute a batch of images of one size, or of their latents.

        Raises `OutOfMemory` for a single row that does not fit into memory, `UserError` for a device that has failed.
        """
        rows = RowBatch(columns)
        if self._by_row:
            return RowBatch.join([self._computed(operation, rows[n : n + 1]) for n in range(len(rows))]).columns
        full = self.batch_size(size)
        padded = rows.padded(full) if self.invariant and len(rows) < full else rows
        return self._computed(operation, padded)[: len(rows)].columns

    def _computed(self, operation: Operation, rows: RowBatch) -> RowBatch:
        try:
            with self._clock:
                return self._model.run(operation, rows, deterministic=True)
        except OutOfMemory:
            if len(rows) == 1:
                raise
        except DeviceLost as failure:
            raise UserError(f"device: {self._device} has failed: {failure}") from None
        half = self._most = len(rows) // 2
        return RowBatch.join([self._computed(operation, rows[:half]), self._computed(operation, rows[half:])])

    def _compiled(self, model: ImageModel, settings: Settings) -> DeviceModel:
        try:
            compiled = self._device.translating_errors(partial(compile_model, model, settings, self._device.target))
        except (OutOfMemory, DeviceLost) as failure:
            raise UserError(f"device: {self._device} cannot compute the model: {failure}") from None
        return DeviceModel(compiled, self._device, CoreUsage())

    def _find_invariance(self) -> bool:
        """Return whether a row has the same bits in a full batch as alone; a runtime may have to leave out a step."""
        if not isinstance(self.spec.sizes, FixedSize):
            return False
        full, until = self.batch_size(self.spec.sizes.image_size), time.monotonic() + COMPARISON_SECONDS
        sizes = (full,) if self._device.is_gpu else (1, full)
        compiled = self._model.compiled
        with suppress(OutOfMemory):
            while not self._device.translating_errors(partial(compiled.is_batch_invariant, sizes, until)):
                fallback = compiled.fallback()
                if fallback is None:
                    return False
                compiled = fallback
            self._model = self._model.recompiled(compiled)
            for operation, rows in examples(self.spec, full).items() if self._device.is_gpu else ():
                compiled.prepare(operation, rows)
            return True
        return False


class BusyClock:
    """Counts the time in which some of `slots` computed, as a context around each computation."""

    def __init__(self, slots: int) -> None:
        self._slots, self._lock = slots, Lock()
        self._running, self._busy = 0, 0.0
        self._first = self._last = 0.0

    @property
    def idle(self) -> float:
        """The share of the time since the first computation in which the slots were idle."""
        with self._lock:
            self._count()
            return max(0.0, 1 - self._busy / (self._slots * (self._last - self._first))) if self._busy else 0.0

    def __enter__(self) -> None:
        with self._lock:
            self._count()
            self._running += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._count()
            self._running -= 1

    def _count(self) -> None:
        now = time.perf_counter()
        self._first = self._first or now
        self._busy += self._running * (now - (self._last or now))
        self._last = now


def _is_large(model: ImageModel) -> bool:
    """Whether one image is so much work that all threads should share it."""
    flops = flops_of(model)
    return sum(flops) > LARGE_FLOPS if flops else True
