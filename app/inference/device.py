"""What batches are computed on: a CPU's cores or a GPU; there and back with one copy each way, on a GPU recorded once.

An answer does not depend on who shared the batch. Rows whose draw comes from a seed are computed in batches in which a
row was seen to have the same bits always, or else one by one, so that it gives the same bytes under any load.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from app.batching.executor import OutOfMemory
from app.batching.policy import CPU_INLINE_SECONDS, BatchPolicy
from app.batching.rows import RowBatch
from app.inference.core_sharing import CoreUsage
from app.inference.device_errors import diagnose, release
from app.inference.loaded_model import BatchKey, LoadedModel
from app.observability.metrics import Metrics
from app.resources import cores, largest_batch, threads
from app.runtimes.batch_invariance import keeps_rows_apart, program_keeps_rows_apart
from app.runtimes.cuda_graphs import CudaGraph
from app.runtimes.onnx_program import OnnxOperation
from app.runtimes.operations import OPERATIONS
from app.runtimes.selection import CompiledNetworks, networks
from app.settings import Settings
from model.device import autocast, disable_tf32
from model.vae import VAE

TOGETHER = 16
"""Rows of a batch on a GPU in which one has the same bits always: another size may be computed another way."""

HOP = 0.001
"""Seconds up to which the event loop runs all batches of a GPU: the way to a thread and back takes part of it."""

T = TypeVar("T")


class TorchDevice:
    """The device, as the batcher has use for it (`runner.Device`), and the warm-up; `neighbours` share its cores."""

    def __init__(self, settings: Settings, metrics: Metrics, neighbours: CoreUsage | None = None) -> None:
        self._threads, self._most_threads = threads(settings), settings.threads or cores()
        torch.set_num_threads(self._threads)
        disable_tf32()  # else an answer depends on the shape of its batch
        torch.backends.cudnn.deterministic = True  # else what comes from a seed has other bits each time
        self.place = choose_device(settings.device)
        by_itself = not self.is_gpu and self._threads == 1  # what others take of its core does not count
        self._clock = time.thread_time if by_itself else time.monotonic
        self._resolution = time.get_clock_info("thread_time" if by_itself else "monotonic").resolution
        self.precision = settings.precision
        self.neighbours = neighbours or CoreUsage()
        self.largest = largest_batch(settings, gpu=self.is_gpu)
        self._settings = settings
        self._metrics = metrics

    def __str__(self) -> str:
        return str(self.place)

    @property
    def is_gpu(self) -> bool:
        """Whether it is no CPU."""
        return self.place.type == "cuda"

    def memory(self) -> int:
        """Bytes that torch holds of the GPU's memory."""
        return torch.cuda.memory_reserved(self.place) if self.is_gpu else 0

    def networks(self, vae: VAE) -> CompiledNetworks:
        """The VAE as the device computes it; raises as `runtime.networks` does, and `OutOfMemory`."""
        made = partial(networks, vae, self._settings, self.place, self._threads, self._most_threads)
        return self.safely(made)

    def pace(self, work: BatchKey) -> BatchPolicy:
        """What its warm-up has shown."""
        return work.served.paces.get((work.operation, work.exact), BatchPolicy())

    def stack(self, work: BatchKey, parts: Sequence[RowBatch]) -> RowBatch:
        """The parts as one batch, padded with zeros to a shape that was warmed."""
        batch = RowBatch.join(parts)
        if work.by_row:
            return batch
        shape = next(shape for shape in work.served.shapes(work) if shape >= len(batch))
        return batch.padded(shape) if shape > len(batch) else batch

    def infer(self, work: BatchKey, batch: RowBatch, *, alone: bool) -> RowBatch:
        """The batch through the networks."""
        program = work.served.programs.get(work.operation)
        compute = partial(self._by, program) if program else partial(self._through, work, alone=alone)
        return self.safely(partial(compute, batch))

    def safely(self, compute: Callable[[], T]) -> T:
        """What it returns; raises `OutOfMemory` or `DeviceLost` where that is what befell it."""
        try:
            return compute()
        except Exception as failure:
            fault = diagnose(failure, self.place)
            if fault is None:
                raise
        if isinstance(fault, OutOfMemory):
            release(self.place)  # by now the failure is gone, and the memory that its frames held
        raise fault

    # What follows is for the warm-up.

    def timed(self, work: BatchKey, batch: RowBatch) -> tuple[RowBatch, float]:
        """The batch through the networks, and the seconds that it took: at least one step of the clock."""
        start = self._clock()
        answers = self.infer(work, batch, alone=False)
        return answers, max(self._clock() - start, self._resolution)

    def quick(self, seconds: Mapping[int, float]) -> float:
        """The seconds of a batch up to which the event loop runs it, where batches of each shape take so long.

        On a GPU it runs all or none: there a large batch takes little longer than a small one.
        """
        if not self.is_gpu:
            return CPU_INLINE_SECONDS
        return HOP if max(seconds.values()) <= HOP else 0.0

    def apart(self, served: LoadedModel, sizes: Sequence[int], until: float) -> Sequence[int]:
        """The `sizes`, if exact rows have the same bits in batches of all of them; else none: they must go one by one.

        None as well where that is not known `until` then, in seconds of `time.monotonic`.
        """
        try:
            return self.safely(partial(self._apart, served, sizes, until))
        except OutOfMemory:
            return []  # nobody knows; how large a batch may be is found out next

    def record(self, work: BatchKey, batch: RowBatch) -> None:
        """Record how a GPU computes batches of this shape."""
        operation = self._operation(work)

        def compute(*there: Tensor) -> tuple[Tensor, ...]:
            with autocast(self.precision, self.place):  # in here, so that what it makes of the weights is recorded
                return operation(*there)

        recordings = work.served.recordings
        beside = next(iter(recordings.values()), None)
        recordings[work.operation, work.exact, work.weight, len(batch)] = self.safely(
            partial(CudaGraph, compute, batch, self.place, beside)
        )

    @torch.inference_mode()
    def _apart(self, served: LoadedModel, sizes: Sequence[int], until: float) -> Sequence[int]:
        if served.programs:
            kept = (program_keeps_rows_apart(each, served.config, sizes, until) for each in served.programs.values())
            if all(kept):
                return sizes
            served.programs.clear()
        exact, alone = served.networks.exact, served.networks.alone
        with autocast(self.precision, self.place):
            return sizes if keeps_rows_apart(exact, sizes, alone, self.place, until) else []

    def _by(self, program: OnnxOperation, batch: RowBatch) -> RowBatch:
        with self.neighbours.computing():
            return RowBatch(program(*batch.columns))

    @torch.inference_mode()
    def _through(self, work: BatchKey, batch: RowBatch, *, alone: bool) -> RowBatch:
        alone = alone and self.neighbours.idle
        pieces = [batch[row : row + 1] for row in range(len(batch))] if work.by_row else [batch]
        compute = work.recorded(len(pieces[0])) or partial(self._launched, self._operation(work, alone=alone))
        with self.neighbours.computing(), autocast(self.precision, self.place):
            return RowBatch.join([compute(piece) for piece in pieces])

    def _launched(self, operation: Callable[..., tuple[Tensor, ...]], batch: RowBatch) -> RowBatch:
        there = [torch.from_numpy(column).to(self.place, non_blocking=True) for column in batch.columns]
        return RowBatch(tuple(column.cpu().numpy() for column in operation(*there)))

    def _operation(self, work: BatchKey, *, alone: bool = False) -> Callable[..., tuple[Tensor, ...]]:
        return partial(OPERATIONS[work.operation], work.served.vae(work, alone=alone))


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is the GPU where there is one. A `ValueError` says what is missing."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda:0" if available else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= available:
        here = f"one of the {available} CUDA devices" if available else "cpu, as there is no CUDA device"
        raise ValueError(f"device: expected {here} here, got {name}")
    return device
