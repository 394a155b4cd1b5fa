"""The VAE that new requests are served by: loaded, warmed, fed in batches, replaced between two of them."""

import asyncio
import logging
from functools import partial

from app.batching.batcher import Batcher
from app.errors import Unavailable
from app.inference.core_sharing import CoreUsage
from app.inference.device import TorchDevice
from app.inference.loaded_model import LoadedModel
from app.inference.memory import trim
from app.inference.threads import run_in_own_thread
from app.inference.warmup import WarmUp
from app.observability.metrics import Metrics
from app.runtimes.operations import shapes
from app.settings import Settings
from model.checkpoint import Checkpoint

log = logging.getLogger(__name__)


class Engine:
    """A device, and on it the checkpoint that new requests are served by."""

    def __init__(
        self, checkpoint: Checkpoint, settings: Settings, metrics: Metrics, core_usage: CoreUsage | None = None
    ) -> None:
        self.device = TorchDevice(settings, metrics, core_usage)
        self._always_exact = settings.batch_invariant
        self._metrics = metrics
        self._workers = settings.workers
        self._warm = False
        self._replacing = asyncio.Lock()
        self._batcher = Batcher(
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
        """Raises `QueueFull` where the queue has no room for so many, before anything is read or drawn."""
        self._batcher.check_capacity(images)

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

        It waits for the warm-up of the first model to end, and for another call to end. Raises `CheckpointError` for a
        checkpoint that computes no finite numbers, `OutOfMemory` where there is no room for both, `Unavailable` where
        the device takes no work.
        """
        async with self._replacing:
            if not await self.warmed():
                raise Unavailable
            coming = await run_in_own_thread(partial(self._load, checkpoint))
            limits = await self._warm_up(coming)
            self.served = coming  # requests under way keep the old one, and with the last of them it goes
            self._batcher.set_batch_limits(limits)
            self._tell_model()

    async def _open(self) -> None:
        try:
            self._batcher.set_batch_limits(await self._warm_up(self.served))
            self._warm = True
        except Exception:
            log.critical("the model does not get warm; only a restart helps", exc_info=True)
            await self._batcher.close()

    async def _warm_up(self, served: LoadedModel) -> dict[str, int]:
        return await WarmUp(self.device, self._batcher, served, self._workers).run()

    def _load(self, checkpoint: Checkpoint) -> LoadedModel:
        networks, sizes = self.device.networks(checkpoint.vae), shapes(self.device.largest)
        trim()  # of what was needed to load them
        return LoadedModel(
            checkpoint, networks, self._batcher, self.device, shapes=sizes, always_exact=self._always_exact
        )

    def _tell_model(self) -> None:
        self._metrics.tell_model(self.served.model, str(self.device))
