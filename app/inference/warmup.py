"""Warm-up of a compiled model: finds the batch sizes that are worth their time and memory, in a bounded time.

Batches are measured in sizes of rising order. The next size is left out if it would take longer than `MAX_SECONDS` or
more memory than there is, or if the last one gained no throughput. Later batches have only sizes that were measured.
"""

import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import numpy as np

from app.batching.batcher import Batcher
from app.batching.executor import OutOfMemory
from app.batching.policy import CPU_INLINE_SECONDS, BatchPolicy
from app.batching.rows import RowBatch
from app.context import Operation
from app.inference.calibration import SCORE, Calibration, PixelCost, Variant
from app.inference.device import DeviceModel, TorchDevice
from app.inference.memory import GpuMemory, ProcessMemory, trim
from app.inference.sized_batches import MAX_SECONDS, MIB
from app.inference.threads import run_in_own_thread
from app.runtimes.base import CompiledModel
from app.runtimes.flops import growth_of
from app.runtimes.operations import batch_sizes, examples
from model.elbo import SCORE_DRAWS
from model.files import CheckpointError
from model.interface import ImageModel, ModelSpec, MultipleOfFactor

log = logging.getLogger(__name__)

BUDGET_SECONDS = 45.0
"""Seconds of computing after which the warm-up leaves out what it can, so that a service is ready within a minute."""

REPEATED_SECONDS = 0.5
"""Batches of up to this duration are measured twice: the first run is slower than all later ones."""

SHORT_SECONDS = 0.05
"""Batches of up to this duration are measured `WARMUP_ROUNDS` times."""

WARMUP_ROUNDS = 4
"""Number of measurements of a short batch, interleaved with other sizes: a slow moment affects all sizes alike."""

SLOW_BATCH_SECONDS = 0.25
"""Duration from which a larger batch must gain throughput, since requests wait longer for it."""

MIN_GAIN = 0.97
"""Largest time of an item in such a batch, relative to its time in a batch of the size before."""

MEMORY_SHARE = 0.5
"""Part of the available memory that the batches of all workers may take; the rest is for requests."""

MIN_MEMORY = 2**26
"""Bytes by which a larger batch may always exceed the one before."""

PROGRESS_SECONDS = 2.0
"""Seconds between two log lines about the progress."""

PROBE_SIDES = (128, 256, 512)
"""Pixels of the sides of the first images of a model of many sizes: by them the time for others is estimated.

A pixel of a small image takes several times as long as one of a large image, as each layer takes some time for any.
"""

DETERMINISTIC_GPU_BATCH = 16
"""Size of deterministic batches on a GPU. One size is used, since other sizes may select other kernels."""

GPU_INLINE_SECONDS = 0.001
"""Longest batch that the event loop runs itself on a GPU; a switch of threads takes a good part of that."""


def counted_costs(model: ImageModel) -> Mapping[Operation, PixelCost]:
    """Return what attention adds to each operation of a model of many sizes, counted without computing it."""
    operations = (Operation.ENCODE, Operation.DECODE, Operation.RECONSTRUCT)
    counted = zip(operations, growth_of(model), strict=True)
    return {each: PixelCost(growth=growth.flops, pair_memory=growth.memory) for each, growth in counted}


class WarmUp:
    """The warm-up of one model on the device of `batcher`, in one of `workers` processes that share the memory.

    `sizes` are the image sizes (H, W) that are warmed up if the model has several; it takes other sizes as well.
    `costs` are those that `counted_costs` returns for it.
    """

    def __init__(
        self,
        spec: ModelSpec,
        model: DeviceModel,
        batcher: Batcher,
        workers: int,
        sizes: Sequence[tuple[int, int]] = (),
        costs: Mapping[Operation, PixelCost] = MappingProxyType({}),
    ) -> None:
        self._spec, self._model, self._batcher, self._device = spec, model, batcher, model.device
        self._timer = BatchTimer(model.device)
        self._rows = examples(spec, self._device.max_batch_size)
        self._sizes: Sequence[int] = batch_sizes(self._device.max_batch_size)
        self._limits: dict[str, int] = {}
        self._policies: dict[Variant, BatchPolicy] = {}
        self._largest: dict[str, int] = {}
        self._started = self._logged_at = time.monotonic()
        self._spent = 0.0  # on the clock of the timer: other processes on the same cores make no model look slow
        many = isinstance(spec.sizes, MultipleOfFactor)
        self._image_sizes, self._pixel_costs = sizes, dict(costs)
        self._meter = GpuMemory(self._device.target.device) if many and self._device.is_gpu else ProcessMemory()
        self._memory_before = self._meter.held()
        self._memory = int(self._meter.available() * MEMORY_SHARE / max(1, workers))

    async def run(self, *, always_deterministic: bool) -> tuple[CompiledModel, Calibration]:
        """Measure all variants, or only the deterministic ones; return the calibrated model and its calibration.

        Raises `CheckpointError` if the model computes numbers that are not finite, `OutOfMemory` if not one item fits,
        `Unavailable` if the device has stopped.
        """
        log.info(
            "warm-up of %s: measuring batches of up to %d images", self._spec.identity, self._device.max_batch_size
        )
        if isinstance(self._spec.sizes, MultipleOfFactor):
            return await self._run_sizes(self._spec.sizes)
        seconds = await self._time(SCORE, _one_score(self._spec))
        self._policies[SCORE] = BatchPolicy.from_row_timing(seconds, 0.0, MAX_SECONDS)
        deterministic_sizes = await self._find_deterministic_sizes()
        sizes, uniform = tuple(self._sizes), self._model.compiled.uniform
        found = Calibration(sizes, deterministic_sizes, uniform)
        for operation in self._rows:
            for variant in _variants(operation, found, always_deterministic=always_deterministic):
                await self._measure(variant, found.sizes_of(variant))
        await self._batcher.run_on_device(trim)
        self._log_end(deterministic_sizes)
        return self._model.compiled, Calibration(sizes, deterministic_sizes, uniform, self._policies, self._limits)

    async def _run_sizes(self, rule: MultipleOfFactor) -> tuple[CompiledModel, Calibration]:
        """Measure a model of many sizes: small images first, by which the time for others is estimated."""
        first = rule.fitted(*(min(PROBE_SIDES[0], side) for side in rule.default_size))
        for operation, rows in examples(self._spec.at(*first), 1).items():
            await self._time(Variant(operation, size=first), rows)  # the first run takes memory that later ones reuse
        larger = {rule.fitted(side, side) for side in PROBE_SIDES} - {first}
        for size in [first, *sorted(larger, key=math.prod)]:
            if self._expected(size) <= MAX_SECONDS:
                await self._unless_too_large(size, self._probe)
        for size in sorted({rule.fitted(*size) for size in self._image_sizes}, key=math.prod):
            await self._unless_too_large(size, self._measure_size)
        await self._batcher.run_on_device(trim)
        self._log_end(())
        return self._model.compiled, Calibration(
            tuple(self._sizes),
            policies=self._policies,
            batch_limits=self._limits,
            pixel_costs=self._pixel_costs,
            memory=self._memory,
        )

    def _expected(self, size: tuple[int, int]) -> float:
        """Return the seconds that one image of a size is expected to take in all operations together."""
        return sum(cost.of_image(math.prod(size)) for cost in self._pixel_costs.values())

    async def _unless_too_large(
        self, size: tuple[int, int], measure: Callable[[tuple[int, int]], Awaitable[None]]
    ) -> None:
        """Measure images of a size, unless one takes too much time or memory."""
        reason = self._reason_to_leave_out(size)
        if not reason:
            try:
                await measure(size)
            except OutOfMemory:
                reason = "more memory than there is"
        if reason:
            log.info("warm-up of %d x %d pixels is left out: it would take %s", size[1], size[0], reason)

    def _reason_to_leave_out(self, size: tuple[int, int]) -> str:
        """Return what images of a size would take and how much of that there is, if it is too little."""
        if (seconds := 2 * self._expected(size)) > self._left:
            return f"about {seconds:.0f} s of the {self._left:.0f} left"
        memory = max((cost.bytes_of(math.prod(size)) for cost in self._pixel_costs.values()), default=0)
        if memory > self._memory:
            return f"about {memory / MIB:.0f} MiB of the {self._memory / MIB:.0f} MiB for batches"
        return ""

    async def _probe(self, size: tuple[int, int]) -> None:
        """Measure what one image of a size takes."""
        for operation, rows in examples(self._spec.at(*size), 1).items():
            await self._batcher.run_on_device(trim)  # else a batch would take memory that one before has left
            before, variant = self._meter.held(), Variant(operation, size=size)
            self._meter.reset_peak()
            self._record_cost(variant, 1, await self._time(variant, rows), self._meter.peak() - before)

    async def _measure_size(self, size: tuple[int, int]) -> None:
        """Measure batches of images of one size."""
        self._rows = examples(self._spec.at(*size), max(self._sizes))
        for operation in self._rows:
            await self._batcher.run_on_device(trim)
            await self._measure(Variant(operation, size=size), self._sizes)

    async def _find_deterministic_sizes(self) -> tuple[int, ...]:
        """Find the sizes of batches in which a row always has the same bits."""
        until = time.monotonic() + BUDGET_SECONDS
        if self._device.is_gpu:
            sizes: Sequence[int] = [min(DETERMINISTIC_GPU_BATCH, self._device.max_batch_size)]
            return await self._batcher.run_on_device(partial(self._test_batch_invariance, sizes, until))
        if self._model.compiled.runtime == "torch":
            return ()
        seconds = await self._grow(Variant(Operation.RECONSTRUCT, deterministic=True), self._sizes)
        if self._model.compiled.uniform:
            self._sizes = [*seconds]  # only sizes that can be compared, so that all requests may share batches
        if not (sizes := self._comparable_sizes(seconds)):
            log.info(
                "warm-up: no time to compare rows in batches with single rows; seeded rows are computed one by one"
            )
            return ()
        self._log_progress("comparing each row of batches of up to %d with the row alone", max(sizes))
        # On a thread of its own: the device may still serve the model before this one.
        return await run_in_own_thread(partial(self._test_batch_invariance, sizes, until))

    def _test_batch_invariance(self, sizes: Sequence[int], until: float) -> tuple[int, ...]:
        """Return the sizes if the model, or else its fallback, gives rows the same bits in all of them; else none."""
        compiled: CompiledModel | None = self._model.compiled
        while compiled:
            try:
                if self._device.translating_errors(partial(compiled.is_batch_invariant, sizes, until)):
                    self._model = self._model.recompiled(compiled)
                    return tuple(sizes)
            except OutOfMemory:
                return ()  # the measurement of batches will find out which sizes fit
            compiled = compiled.fallback()
        return ()

    def _comparable_sizes(self, seconds: Mapping[int, float]) -> list[int]:
        """Return the sizes for which there is time to compare each row with the row alone."""
        sizes = [*seconds]
        while sizes and max(sizes) * seconds[sizes[0]] + sum(map(seconds.__getitem__, sizes)) > self._left / 2:
            sizes.pop()
        return sizes

    async def _measure(self, variant: Variant, sizes: Sequence[int]) -> None:
        """Derive the policy of a variant from the shortest of up to `WARMUP_ROUNDS` runs of each size."""
        seconds = await self._grow(variant, sizes or [1])
        for _ in range(2, WARMUP_ROUNDS):
            for size in [size for size, least in seconds.items() if least < SHORT_SECONDS]:
                if self._left > 0 and size in seconds:
                    await self._try(variant, size, seconds)
        limit = self._inline_limit(seconds)
        if sizes:
            policy = BatchPolicy.from_batch_timings(seconds, limit)
        else:
            policy = BatchPolicy.from_row_timing(seconds[1], limit, MAX_SECONDS)
        self._policies[variant] = policy
        self._largest[variant.operation] = max(*seconds, self._largest.get(variant.operation, 0))

    def _inline_limit(self, seconds: Mapping[int, float]) -> float:
        """Return the duration up to which batches run inline.

        On a GPU that is all batches or none: a large batch takes little longer than a small one.
        """
        if not self._device.is_gpu:
            return CPU_INLINE_SECONDS
        return GPU_INLINE_SECONDS if max(seconds.values()) <= GPU_INLINE_SECONDS else 0.0

    async def _grow(self, variant: Variant, sizes: Sequence[int]) -> dict[int, float]:
        """Measure batches of rising size, up to the largest that is worth its time and memory."""
        seconds: dict[int, float] = {}
        if self._left <= 0:
            return {sizes[0]: math.inf}
        before, operation = self._meter.held(), variant.operation
        for size in sizes:
            if seconds and (reason := self._reason_to_stop(seconds, self._meter.peak() - before, size)):
                log.info("warm-up: %s: batches of up to %d: %s", operation, max(seconds), reason)
                break
            self._meter.reset_peak()
            if not await self._try(variant, size, seconds):
                break
            if seconds[size] < REPEATED_SECONDS:
                await self._try(variant, size, seconds)
            if variant.size is not None:
                self._record_cost(variant, size, seconds[size], self._meter.peak() - before)
            if not _gains(seconds):
                del seconds[size]
                log.info("warm-up: %s: batches of up to %d: one of %d is no faster", operation, max(seconds), size)
                break
        return seconds

    def _record_cost(self, variant: Variant, rows: int, seconds: float, taken: int) -> None:
        """Keep the time of a pixel in the largest batch of the largest image, and the most memory of one in any."""
        pixels, known = math.prod(variant.size or ()), self._pixel_costs.get(variant.operation, PixelCost())
        # The operation that does both others may use memory that a runtime keeps of them, and seem to take none.
        parts = [*self._pixel_costs.values()] if variant.operation == Operation.RECONSTRUCT else [known]
        memory = max(taken / (rows * pixels) - known.pair_memory * pixels, *(part.memory for part in parts), 0.0)
        linear = seconds / (rows * pixels) / (1 + known.growth * pixels)
        per_pixel = linear if pixels >= known.pixels else known.seconds
        self._pixel_costs[variant.operation] = known._replace(
            seconds=per_pixel, memory=memory, pixels=max(pixels, known.pixels)
        )

    def _reason_to_stop(self, seconds: Mapping[int, float], taken: int, size: int) -> str:
        """Return why a batch of `size` is left out, after smaller ones of which the last took `taken` bytes."""
        last = max(seconds)
        if self._left <= 0:
            return "the time for the warm-up is over"
        if (expected := seconds[last] * size / last) > MAX_SECONDS:
            return f"one of {size} would take about {expected:.1f} s"
        # A runtime keeps the memory of its largest batch. Half of what is left is for the other operations.
        left = self._memory - (self._meter.held() - self._memory_before)
        allowed = max(MIN_MEMORY, left // 2)
        if (more := taken * size // last - taken) > allowed:
            return f"one of {size} would take about {more / MIB:.0f} MiB more, of {allowed / MIB:.0f} MiB allowed"
        return ""

    async def _try(self, variant: Variant, size: int, seconds: dict[int, float]) -> bool:
        """Add a measurement to `seconds`; false if the device has no memory for it. Raises that for a first size."""
        operation = variant.operation
        try:
            duration = await self._time(variant, self._rows[operation][:size])
        except OutOfMemory:
            for larger in [other for other in seconds if other >= size]:
                del seconds[larger]
            if not seconds:
                raise
            self._limits[operation] = min(max(seconds), self._limits.get(operation, max(seconds)))
            text = "the device has memory for %d images to %s at once, not for %d"
            log.warning(text, max(seconds), operation, size)
            return False
        seconds[size] = min(duration, seconds.get(size, math.inf))
        self._log_progress("%s, batch of %d: %.0f ms", operation, size, duration * 1000)
        return True

    async def _time(self, variant: Variant, batch: RowBatch) -> float:
        """Return the seconds that a batch takes, once the runtime is prepared for its shape."""
        prepare = partial(self._model.compiled.prepare, variant.operation, batch)
        await self._batcher.run_on_device(partial(self._device.translating_errors, prepare))
        run = partial(self._timer.run, self._model, variant, batch)
        results, seconds = await self._batcher.run_on_device(run)
        self._spent += seconds
        if not all(np.isfinite(column).all() for column in results.columns):
            raise CheckpointError(f"{self._spec.identity}: {variant.operation} gives numbers that are not finite")
        return seconds

    @property
    def _left(self) -> float:
        return BUDGET_SECONDS - self._spent

    def _log_progress(self, text: str, *values: object) -> None:
        """Log a step, unless the last line is recent."""
        if (now := time.monotonic()) - self._logged_at > PROGRESS_SECONDS:
            self._logged_at = now
            log.info("warm-up: " + text, *values)

    def _log_end(self, deterministic_sizes: Sequence[int]) -> None:
        sizes = ", ".join(f"{operation} {size}" for operation, size in self._largest.items())
        text = "warm-up of %s: done after %.1f s; images in a batch: %s, up to %d where the draws come from a seed"
        seconds = time.monotonic() - self._started
        log.info(text, self._spec.identity, seconds, sizes, max(deterministic_sizes, default=1))


class BatchTimer:
    """Measures batches. On one CPU thread it counts the time of that thread, not of others on the same core."""

    def __init__(self, device: TorchDevice) -> None:
        single_thread = not device.is_gpu and device.target.threads == 1
        self._clock = time.thread_time if single_thread else time.monotonic
        self._resolution = time.get_clock_info("thread_time" if single_thread else "monotonic").resolution

    def run(self, model: DeviceModel, variant: Variant, batch: RowBatch) -> tuple[RowBatch, float]:
        """Compute a batch; return its results and its seconds, at least one step of the clock."""
        start = self._clock()
        results = model.run(variant.operation, batch, deterministic=variant.deterministic)
        return results, max(self._clock() - start, self._resolution)


def _variants(operation: Operation, found: Calibration, *, always_deterministic: bool) -> list[Variant]:
    """Return the variants of an operation that requests can need."""
    if found.always_deterministic:
        return [Variant(operation)]
    deterministic = Variant(operation, deterministic=True)
    return [deterministic] if always_deterministic else [Variant(operation), deterministic]


def _gains(seconds: Mapping[int, float]) -> bool:
    """Whether the largest batch is not slow, or takes less time for an item than the one before."""
    *smaller, size = seconds
    if not smaller or seconds[size] < SLOW_BATCH_SECONDS:
        return True
    return seconds[size] * smaller[-1] < MIN_GAIN * seconds[smaller[-1]] * size


def _one_score(spec: ModelSpec) -> RowBatch:
    pixels, noise = examples(spec, 1)[Operation.RECONSTRUCT].columns
    if not spec.has_elbo:
        return RowBatch((pixels,))
    return RowBatch((pixels, np.repeat(noise[:, None], SCORE_DRAWS, axis=1)))
