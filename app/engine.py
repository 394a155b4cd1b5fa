"""The VAE that new requests are served by: loaded, warmed, fed in batches, replaced between two of them."""

import asyncio
import logging
import math
from functools import partial

import numpy as np

from app.batching import Batcher
from app.device import TorchDevice
from app.futures import apart
from app.metrics import Metrics
from app.operations import Stack, examples, shapes
from app.runner import OutOfMemory
from app.served import Served, Work
from app.settings import Settings
from model.checkpoint import Checkpoint, CheckpointError

log = logging.getLogger(__name__)

TURNS = 4
"""Times that each shape of batch is met, in turn with the others: a moment in which all is slow befalls them alike."""

LONG = 0.05
"""Seconds from which a batch is met twice: the first time is slower than it will be, more often tells little more."""


class Engine:
    """A device, and on it the checkpoint that new requests are served by."""

    def __init__(self, checkpoint: Checkpoint, settings: Settings, metrics: Metrics) -> None:
        self.device = TorchDevice(settings, metrics)
        self._always_exact = settings.batch_invariant
        self._metrics = metrics
        self._warm = False
        self._batcher = Batcher(
            self.device,
            metrics,
            max_batch_size=self.device.largest,
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
        coming = await apart(partial(self._load, checkpoint))
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
        networks, sizes = self.device.networks(checkpoint.vae), shapes(self.device.largest)
        return Served(checkpoint, networks, self._batcher, shapes=sizes, always_exact=self._always_exact)

    def _tell_model(self) -> None:
        self._metrics.tell_model(self.served.model, str(self.device))

    async def _meet_every_shape(self, served: Served) -> dict[str, int]:
        limits: dict[str, int] = {}
        attempt = partial(self.device.apart, served)
        if self.device.is_gpu:
            served.apart = await self._batcher.perform(attempt)
        elif served.networks.runtime != "torch":  # in a thread of its own: the device may be serving what came before
            served.apart = await apart(attempt)
        for operation, rows in examples(served.config, self.device.largest).items():
            for work in served.works(operation):
                seconds = await self._meet_sizes(work, rows, limits)
                served.measured(work, seconds, self.device.quick(seconds))
        await self._meet(served.scoring(), _one_draw(served))
        return limits

    async def _meet_sizes(self, work: Work, rows: Stack, limits: dict[str, int]) -> dict[int, float]:
        """The seconds that batches of each shape took, as far as there is room for them; else a limit is added."""
        seconds = dict.fromkeys(work.served.shapes(work), math.inf)
        for turn in range(TURNS):
            for size in [size for size, least in seconds.items() if turn < 2 or least < LONG]:
                try:
                    seconds[size] = min(seconds[size], await self._meet(work, rows[:size]))
                except OutOfMemory:
                    seconds = {fitting: took for fitting, took in seconds.items() if fitting < size}
                    if not seconds:
                        raise
                    _limit(limits, work.operation, max(seconds), size)
                    break
        return seconds

    async def _meet(self, work: Work, batch: Stack) -> float:
        """The seconds that a batch takes, recorded if its shape is new."""
        if self.device.is_gpu and not work.recorded(len(batch)):
            await self._batcher.perform(partial(self.device.record, work, batch))
        answers, seconds = await self._batcher.perform(partial(self.device.timed, work, batch))
        if not all(np.isfinite(column).all() for column in answers.columns):
            raise CheckpointError(f"{work.served.model}: {work.operation} gives numbers that are not finite")
        return seconds


def _limit(limits: dict[str, int], operation: str, fitted: int, size: int) -> None:
    limits[operation] = min(fitted, limits.get(operation, fitted))
    log.warning("the device has room for %d images to %s at once, not for %d", fitted, operation, size)


def _one_draw(served: Served) -> Stack:
    pixels, noise = examples(served.config, 1)["reconstruct"].columns
    return Stack((pixels, noise[:, None]))
