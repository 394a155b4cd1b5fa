"""Warm-up of a loaded model: it finds the batch sizes that are worth their time and memory, in a bounded time.

Sizes of batches are tried in rising order. The next size is not tried where it would take longer than `LONGEST` or more
memory than there is, or where the last one gained no throughput. A batch that is served has a size that was tried.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from app.batching.batcher import Batcher
from app.batching.executor import OutOfMemory
from app.batching.rows import RowBatch
from app.inference.device import TOGETHER, TorchDevice
from app.inference.loaded_model import BatchKey, LoadedModel
from app.inference.memory import available, peak, reset_peak, resident, trim
from app.inference.threads import run_in_own_thread
from app.runtimes.operations import examples
from model.checkpoint import CheckpointError

log = logging.getLogger(__name__)

BUDGET = 45.0
"""Seconds of computing after which a warm-up leaves out what it can, so that a service is ready within a minute."""

LONGEST = 1.0
"""Seconds that a batch may take: other requests, and the end of the process, wait for the batch under way."""

REPEATED = 0.5
"""Seconds of a batch up to which it is measured twice: the first time is slower than all later ones."""

SHORT = 0.05
"""Seconds of a batch up to which it is measured `TURNS` times."""

TURNS = 4
"""Times that each size of a short batch is measured, in turn with the others: a slow moment affects all sizes alike."""

LONG = 0.25
"""Seconds of a batch from which it must gain throughput, as requests wait longer for it."""

GAIN = 0.97
"""What an item may take in such a batch, as a part of what it takes in a batch of the size before."""

SHARE = 0.5
"""What the batches of all workers may take of the available memory; the rest is for requests."""

LEAST_MEMORY = 2**26
"""Bytes more that a larger batch may always take."""

MIB = 2**20

PROGRESS = 2.0
"""Seconds between two lines of the log that tell how far the warm-up is."""


class WarmUp:
    """The warm-up of one model on the device of `batcher`, in one of as many `workers` as share the memory."""

    def __init__(self, device: TorchDevice, batcher: Batcher, served: LoadedModel, workers: int) -> None:
        self._device, self._batcher, self._served = device, batcher, served
        self._rows = examples(served.config, device.largest)
        self._limits: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._started = self._told = time.monotonic()
        self._spent = 0.0  # on the clock of the device: other processes on its cores make no model look slow
        self._memory_before, self._memory = resident(), int(available() * SHARE / max(1, workers))

    async def run(self) -> dict[str, int]:
        """Measure every kind of work; returns the most items of an operation for which the device has memory.

        An operation for which its memory was no limit is not in it. Raises `CheckpointError` where the model gives
        numbers that are not finite, `OutOfMemory` where not one item fits, `Unavailable` where the device has stopped.
        """
        served = self._served
        log.info("warm-up of %s: measuring batches of up to %d images", served.model, self._device.largest)
        draw = await self._timed(served.scoring(), _one_draw(served))
        served.measured(served.scoring(), {1: draw}, quick=0.0, longest=LONGEST)
        await self._find_exact_sizes()
        for operation in self._rows:
            for work in served.works(operation):
                seconds = await self._measure(work)
                served.measured(work, seconds, self._device.quick(seconds), LONGEST)
                self._sizes[operation] = max(*seconds, self._sizes.get(operation, 0))
        await self._batcher.run_on_device(trim)
        self._tell_end()
        return self._limits

    async def _find_exact_sizes(self) -> None:
        """Find the sizes of batches in which a row has the same bits always."""
        served, device, until = self._served, self._device, time.monotonic() + BUDGET
        if device.is_gpu:
            trial = partial(device.apart, served, [min(TOGETHER, device.largest)], until)
            served.apart = await self._batcher.run_on_device(trial)
        elif served.networks.runtime != "torch":
            seconds = await self._grow(BatchKey("reconstruct", served, exact=True), served.sizes)
            if served.networks.swift is served.networks.exact:
                served.sizes = [*seconds]  # all that may be compared, so that all requests share batches
            if sizes := self._comparable(seconds):
                self._tell("comparing each row of batches of up to %d with the row alone", max(sizes))
                # In a thread of its own: the device may be serving the model before this one.
                served.apart = await run_in_own_thread(partial(device.apart, served, sizes, until))
            else:
                log.info("warm-up: no time to compare rows in batches with rows alone; seeded rows go one by one")

    def _comparable(self, seconds: Mapping[int, float]) -> list[int]:
        """The sizes of batches for which there is time to compare each row with the row alone."""
        sizes = [*seconds]
        while sizes and max(sizes) * seconds[sizes[0]] + sum(map(seconds.__getitem__, sizes)) > self._left / 2:
            sizes.pop()
        return sizes

    async def _measure(self, work: BatchKey) -> dict[int, float]:
        """The seconds of batches of each size, the least of up to `TURNS` times."""
        seconds = await self._grow(work, self._served.shapes(work))
        for _ in range(2, TURNS):
            for size in [size for size, least in seconds.items() if least < SHORT]:
                if self._left > 0 and size in seconds:
                    await self._try(work, size, seconds)
        return seconds

    async def _grow(self, work: BatchKey, sizes: Sequence[int]) -> dict[int, float]:
        """The seconds of batches of rising size, up to the largest that is worth its time and memory."""
        seconds: dict[int, float] = {}
        if self._left <= 0:
            return {sizes[0]: math.inf}
        before = resident()
        for size in sizes:
            if seconds and (reason := self._reason_to_stop(seconds, peak() - before, size)):
                log.info("warm-up: %s: batches of up to %d: %s", work.operation, max(seconds), reason)
                break
            reset_peak()
            if not await self._try(work, size, seconds):
                break
            if seconds[size] < REPEATED:
                await self._try(work, size, seconds)
            if not _gains(seconds):
                del seconds[size]
                log.info("warm-up: %s: batches of up to %d: one of %d is no faster", work.operation, max(seconds), size)
                break
        return seconds

    def _reason_to_stop(self, seconds: Mapping[int, float], taken: int, size: int) -> str:
        """Why a batch of `size` is not tried, after smaller ones of which the last has taken so many bytes."""
        last = max(seconds)
        if self._left <= 0:
            return "the time for the warm-up is over"
        if (expected := seconds[last] * size / last) > LONGEST:
            return f"one of {size} would take about {expected:.1f} s"
        # A runtime keeps the memory of its largest batch. Half of what is left is for the other operations.
        left = self._memory - (resident() - self._memory_before)
        allowed = max(LEAST_MEMORY, left // 2)
        if (more := taken * size // last - taken) > allowed:
            return f"one of {size} would take about {more / MIB:.0f} MiB more, of {allowed / MIB:.0f} MiB allowed"
        return ""

    async def _try(self, work: BatchKey, size: int, seconds: dict[int, float]) -> bool:
        """Add a measurement to `seconds`; false where the device has no memory for it, or raises for a first size."""
        try:
            took = await self._timed(work, self._rows[work.operation][:size])
        except OutOfMemory:
            for larger in [other for other in seconds if other >= size]:
                del seconds[larger]
            if not seconds:
                raise
            self._limit(work.operation, max(seconds), size)
            return False
        seconds[size] = min(took, seconds.get(size, math.inf))
        self._tell("%s, batch of %d: %.0f ms", work.operation, size, took * 1000)
        return True

    async def _timed(self, work: BatchKey, batch: RowBatch) -> float:
        """The seconds that a batch takes, recorded on a GPU if its shape is new."""
        if self._device.is_gpu and not work.recorded(len(batch)):
            await self._batcher.run_on_device(partial(self._device.record, work, batch))
        answers, seconds = await self._batcher.run_on_device(partial(self._device.timed, work, batch))
        self._spent += seconds
        if not all(np.isfinite(column).all() for column in answers.columns):
            raise CheckpointError(f"{work.served.model}: {work.operation} gives numbers that are not finite")
        return seconds

    def _limit(self, operation: str, fitted: int, size: int) -> None:
        self._limits[operation] = min(fitted, self._limits.get(operation, fitted))
        log.warning("the device has room for %d images to %s at once, not for %d", fitted, operation, size)

    @property
    def _left(self) -> float:
        return BUDGET - self._spent

    def _tell(self, text: str, *values: object) -> None:
        """Log what has just been done, where the last line is some time ago."""
        if (now := time.monotonic()) - self._told > PROGRESS:
            self._told = now
            log.info("warm-up: " + text, *values)

    def _tell_end(self) -> None:
        exact = max(self._served.apart, default=1)
        sizes = ", ".join(f"{operation} {size}" for operation, size in self._sizes.items())
        text = "warm-up of %s: done after %.1f s; images in a batch: %s, up to %d where the draws come from a seed"
        log.info(text, self._served.model, time.monotonic() - self._started, sizes, exact)


def _gains(seconds: Mapping[int, float]) -> bool:
    """Whether the largest batch is not long, or takes less time for an item than the one before."""
    *smaller, size = seconds
    if not smaller or seconds[size] < LONG:
        return True
    return seconds[size] * smaller[-1] < GAIN * seconds[smaller[-1]] * size


def _one_draw(served: LoadedModel) -> RowBatch:
    pixels, noise = examples(served.config, 1)["reconstruct"].columns
    return RowBatch((pixels, noise[:, None]))
