"""The VAE on its device: loaded, warmed, fed in batches, replaced between two of them; alone knows a device.

An answer does not depend on who shared the batch. Rows whose draw comes from a seed are computed by networks that were
seen to give a row the same bits in every batch, or else one by one, so that it gives the same bytes under any load.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from app.batching import Batcher
from app.faults import diagnose, release
from app.invariance import keeps_rows_apart
from app.machine import cores, threads
from app.metrics import Metrics
from app.neighbours import Neighbours
from app.operations import OPERATIONS, Stack, examples, shapes
from app.pace import QUICK, Pace
from app.runner import OutOfMemory
from app.runtime import networks
from app.served import Served, Work
from app.settings import Settings
from model.checkpoint import Checkpoint, CheckpointError
from model.precision import networks_in

log = logging.getLogger(__name__)


class Engine:
    """The device, and on it the checkpoint that new requests are served by; `neighbours` share its cores."""

    def __init__(self, checkpoint: Checkpoint, settings: Settings, metrics: Metrics) -> None:
        self._threads, self._most_threads = threads(settings), settings.threads or cores()
        torch.set_num_threads(self._threads)
        torch.backends.cudnn.allow_tf32 = False  # its 10 bits would let an answer depend on the shape of its batch
        self.device = choose_device(settings.device)
        by_itself = self.device.type == "cpu" and self._threads == 1  # what others take of its core does not count
        self._clock = time.thread_time if by_itself else time.monotonic
        self.precision = settings.precision
        self._settings = settings
        self.neighbours = Neighbours()
        self._largest = settings.max_batch_size
        self._metrics = metrics
        self._warm = False
        self._batcher = Batcher(
            self,
            metrics,
            max_batch_size=settings.max_batch_size,
            max_queue_items=settings.max_queue_items,
            max_delay=settings.max_batch_delay_ms / 1000,
        )
        self.served = self._load(checkpoint)
        self._tell_model()

    @property
    def alive(self) -> bool:
        """Whether the device thread is at work."""
        return self._batcher.alive

    @property
    def ready(self) -> bool:
        """Whether the weights are loaded, every batch shape is warmed and the device takes work."""
        return self._warm and self._batcher.ready

    def require_room(self, images: int = 1) -> None:
        """Raises `Overloaded` where the queue has no room for so many, before anything is read or drawn."""
        self._batcher.require_room(images)

    def device_memory(self) -> int:
        """Bytes that torch holds of the GPU's memory."""
        return torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else 0

    def start(self) -> None:
        """Start the device and warm it up; needs a running event loop."""
        self._batcher.start()
        self._opening = asyncio.create_task(self._open())

    async def warmed(self) -> bool:
        """Whether the model got warm, once that is known."""
        await asyncio.wait([self._opening])
        return self.ready

    async def close(self) -> None:
        """Take no more work, answer what was accepted, stop the device thread."""
        self._opening.cancel()
        await self._batcher.close()

    async def replace(self, checkpoint: Checkpoint) -> None:
        """Serve new requests by another checkpoint, once it is on the device beside the old one, and warm.

        Raises `CheckpointError` for one that computes no finite numbers, `OutOfMemory` where there is no room for both.
        """
        coming = await asyncio.to_thread(self._load, checkpoint)
        limits = await self._meet_every_shape(coming)
        self.served = coming  # requests under way keep the old one, and with the last of them it goes
        self._batcher.keep_to(limits)
        self._tell_model()

    async def _open(self) -> None:
        try:
            self._batcher.keep_to(await self._meet_every_shape(self.served))
            self._warm = True
        except Exception:
            log.critical("the model does not get warm; only a restart helps", exc_info=True)
            await self._batcher.close()

    def _load(self, checkpoint: Checkpoint) -> Served:
        try:
            ready = networks(checkpoint.vae, self._settings, self.device, self._threads, self._most_threads)
            return Served(checkpoint, ready, self._batcher, always_exact=self._settings.batch_invariant)
        except RuntimeError as failure:
            raise diagnose(failure, self.device) or failure from None

    def _tell_model(self) -> None:
        self._metrics.tell_model(self.served.model, str(self.device))

    async def _meet_every_shape(self, served: Served) -> dict[str, int]:
        limits: dict[str, int] = {}
        if served.networks.runtime != "torch":  # in a thread of its own: the device may be serving what came before
            served.apart = await asyncio.to_thread(self._apart, served)
        for operation, rows in examples(served.config, self._largest).items():
            for work in served.works(operation):
                seconds = await self._meet_sizes(work, rows, limits)
                served.measured(work, seconds, QUICK if self.device.type == "cpu" else 0.0)
        await self._meet(served.scoring(), _one_draw(served))
        return limits

    async def _meet_sizes(self, work: Work, rows: Stack, limits: dict[str, int]) -> dict[int, float]:
        """The seconds that batches of each shape took, as far as there is room for them; else a limit is added."""
        seconds: dict[int, float] = {}
        for size in [1] if work.by_row else shapes(self._largest):
            try:
                seconds[size] = await self._meet(work, rows[:size])
            except OutOfMemory:
                if not seconds:
                    raise
                fitted = max(seconds)
                limits[work.operation] = min(fitted, limits.get(work.operation, fitted))
                log.warning("the device has room for %d images to %s at once, not for %d", fitted, work.operation, size)
                break
        return seconds

    async def _meet(self, work: Work, batch: Stack) -> float:
        attempt = partial(self._timed, work, batch)
        answers, seconds = await self._batcher.perform(attempt)
        if not all(np.isfinite(column).all() for column in answers.columns):
            raise CheckpointError(f"{work.served.model}: {work.operation} gives numbers that are not finite")
        again = range(3 if seconds < 10 * QUICK else 1)  # the first time is slower than it will be
        return min([seconds, *[(await self._batcher.perform(attempt))[1] for _ in again]])

    def _timed(self, work: Work, batch: Stack) -> tuple[Stack, float]:
        start = self._clock()
        return self.infer(work, batch, alone=False), self._clock() - start

    @torch.inference_mode()
    def _apart(self, served: Served) -> bool:
        try:
            return keeps_rows_apart(served.networks.exact, shapes(self._largest), served.networks.alone)
        except Exception as failure:
            if isinstance(diagnose(failure, self.device), OutOfMemory):
                return False  # nobody knows; how large a batch may be is found out next
            raise

    # What follows are the verbs of `runner.Device`.

    def pace(self, work: Work) -> Pace:
        """What its warm-up has shown; nothing is done at once on a GPU, which works beside the event loop."""
        return work.served.paces.get((work.operation, work.exact), Pace())

    def stack(self, work: Work, parts: Sequence[Stack]) -> Stack:
        """The parts as one batch, padded with zeros to a shape that was warmed."""
        batch = Stack.join(parts)
        if work.by_row:
            return batch
        shape = next(shape for shape in shapes(self._largest) if shape >= len(batch))
        self._metrics.padding.inc(shape - len(batch))
        return batch.padded(shape) if shape > len(batch) else batch

    def infer(self, work: Work, batch: Stack, *, alone: bool) -> Stack:
        """The batch through the networks, there and back with one copy each way."""
        try:
            alone = alone and self.neighbours.idle
            with self.neighbours.computing():
                return self._through(work, batch, alone=alone)
        except Exception as failure:
            fault = diagnose(failure, self.device)
            if fault is None:
                raise
        if isinstance(fault, OutOfMemory):
            release(self.device)  # by now the failure is gone, and the memory that its frames held
        raise fault

    @torch.inference_mode()
    def _through(self, work: Work, batch: Stack, *, alone: bool) -> Stack:
        operation, vae = OPERATIONS[work.operation], work.served.vae(work, alone=alone)
        there = [torch.from_numpy(column).to(self.device, non_blocking=True) for column in batch.columns]
        with networks_in(self.precision, self.device):
            if work.by_row:
                rows = [operation(vae, *(column[row : row + 1] for column in there)) for row in range(len(batch))]
                answers = tuple(map(torch.cat, zip(*rows, strict=True)))
            else:
                answers = operation(vae, *there)
        return Stack(tuple(column.cpu().numpy() for column in answers))


def _one_draw(served: Served) -> Stack:
    pixels, noise = examples(served.config, 1)["reconstruct"].columns
    return Stack((pixels, noise[:, None]))


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is the GPU where there is one. A `ValueError` says what is missing."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda:0" if available else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= available:
        raise ValueError(f"device: expected one of {available} CUDA devices here, got {name}")
    return device
