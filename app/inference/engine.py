"""The engine: one device, and the model on it that serves new requests; loaded, warmed up, and replaced on reload."""

import asyncio
import logging
from functools import partial
from typing import Protocol

from app.batching.batcher import Batcher
from app.errors import Unavailable
from app.inference.calibration import Calibration
from app.inference.core_sharing import CoreUsage
from app.inference.device import DeviceModel, TorchDevice
from app.inference.loaded_model import LoadedModel
from app.inference.memory import trim
from app.inference.threads import run_in_own_thread
from app.inference.warmup import WarmUp, counted_costs
from app.observability.metrics import Metrics
from app.runtimes.base import CompiledModel, Target
from app.runtimes.operations import batch_sizes
from app.runtimes.selection import compile_model
from app.settings import Settings
from model.interface import ImageModel, StoredModel

log = logging.getLogger(__name__)


class Compile(Protocol):
    """Compiles a model as `app.runtimes.selection.compile_model` does."""

    def __call__(self, model: ImageModel, settings: Settings, target: Target) -> CompiledModel: ...


class Engine:
    """A device, and the model on it. `core_usage` shows which other workers compute.

    Raises `CheckpointError` for a model that cannot be compiled, `ValueError` for settings that do not fit the device.
    """

    def __init__(
        self,
        stored: StoredModel,
        settings: Settings,
        metrics: Metrics,
        core_usage: CoreUsage | None = None,
        compile_model: Compile = compile_model,
    ) -> None:
        self.device = TorchDevice(settings)
        self._settings = settings
        self._metrics = metrics
        self._core_usage = core_usage or CoreUsage()
        self._compile = compile_model
        self._warm = False
        self._replacing = asyncio.Lock()
        self._batcher = Batcher(
            metrics,
            max_batch_size=self.device.max_batch_size,
            max_queue_items=settings.max_queue_items,
            max_delay=settings.max_batch_delay_ms / 1000,
        )
        self.loaded_model = self._load(stored)
        self._publish_model_info()

    @property
    def alive(self) -> bool:
        """Whether the device thread runs."""
        return self._batcher.alive

    @property
    def ready(self) -> bool:
        """Whether the model is warmed up and requests are accepted."""
        return self._warm and self._batcher.ready

    @property
    def unready_reason(self) -> str:
        """Why the engine is not ready."""
        return self._batcher.unready_reason

    @property
    def queued_items(self) -> int:
        """The number of items in the queue."""
        return self._batcher.queued_items

    def check_capacity(self, items: int = 1) -> None:
        """Raise `QueueFull` if the queue has no room for so many items."""
        self._batcher.check_capacity(items)

    def start(self) -> None:
        """Start the device thread and the warm-up; needs a running event loop."""
        self._batcher.start()
        self._warming_up = asyncio.create_task(self._warm_up_first())

    async def wait_until_warm(self) -> bool:
        """Wait for the end of the warm-up; return whether the engine is ready."""
        await asyncio.wait([self._warming_up])
        return self.ready

    async def close(self) -> None:
        """Refuse new requests, answer those that were accepted, stop the device thread."""
        self._warming_up.cancel()
        await self._batcher.close()

    async def replace(self, stored: StoredModel) -> None:
        """Serve new requests by another model, once it is loaded beside the old one and warmed up.

        Waits for the first warm-up and for other calls. Raises `CheckpointError` for a model that computes no
        finite numbers, `OutOfMemory` if there is no memory for both models, `Unavailable` if no requests are accepted.
        """
        async with self._replacing:
            if not await self.wait_until_warm():
                raise Unavailable(self.unready_reason)
            candidate = await run_in_own_thread(partial(self._load, stored))
            # Requests in flight keep the old model, which is freed with the last of them.
            self._serve(await self._warm_up(candidate))
            self._publish_model_info()

    async def _warm_up_first(self) -> None:
        try:
            self._serve(await self._warm_up(self.loaded_model))
            self._warm = True
        except Exception:
            log.critical("the warm-up of the model failed; only a restart helps", exc_info=True)
            await self._batcher.close()

    async def _warm_up(self, model: LoadedModel) -> LoadedModel:
        always_deterministic = self._settings.batch_invariant
        sizes = self._settings.warm_sizes or [model.spec.sizes.default_size]
        costs = model.calibration.pixel_costs
        warm_up = WarmUp(model.spec, model.device_model, self._batcher, self._settings.workers, sizes, costs)
        compiled, calibration = await warm_up.run(always_deterministic=always_deterministic)
        return model.calibrated(compiled, calibration)

    def _serve(self, model: LoadedModel) -> None:
        self.loaded_model = model
        self._batcher.set_batch_limits(dict(model.calibration.batch_limits))

    def _load(self, stored: StoredModel) -> LoadedModel:
        compile_model = partial(self._compile, stored.model, self._settings, self.device.target)
        compiled = self.device.translating_errors(compile_model)
        device_model = DeviceModel(compiled, self.device, self._core_usage)
        costs = counted_costs(stored.model)  # a compiled model has no graphs in which they could be counted
        calibration = Calibration(tuple(batch_sizes(self.device.max_batch_size)), pixel_costs=costs)
        loaded = LoadedModel.build(
            stored.metrics,
            device_model,
            calibration,
            self._batcher,
            always_deterministic=self._settings.batch_invariant,
            on_tiled=lambda operation: self._metrics.tiled_images[operation].inc(),
            typicality=stored.typicality,
        )
        trim()  # the weights that were read, if the runtime has its own
        return loaded

    def _publish_model_info(self) -> None:
        self._metrics.set_model(self.loaded_model.identity, str(self.device))
