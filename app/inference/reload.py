"""The served model, read anew from its folder while it serves; a folder that holds nothing usable changes nothing.

Only the folder that the settings name is ever read: a caller can ask when, not what.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from app.batching.executor import OutOfMemory
from app.errors import ReloadFailed, ServiceError
from app.inference.engine import Engine
from app.inference.threads import run_in_own_thread
from app.observability.metrics import Metrics
from app.settings import Settings
from app.single_flight import SingleFlight
from model.checkpoint import CheckpointError, read_checkpoint

log = logging.getLogger(__name__)


class ModelReloader:
    """Reloads, one at a time, each carried through whether or not its caller still waits for it.

    Those who ask while one is under way share the next one. `on_reloaded` lets the other workers of the service follow,
    where there are any.
    """

    def __init__(
        self, engine: Engine, settings: Settings, metrics: Metrics, on_reloaded: Callable[[], None] | None = None
    ) -> None:
        self._engine = engine
        self._folder = settings.model
        self._metrics = metrics
        self._on_reloaded = on_reloaded
        self._others = False
        self._runs = SingleFlight(self._run)

    def begin(self, *, others: bool = False) -> asyncio.Task[None]:
        """Load, verify, warm and swap, in the reload to come; then tell other workers too.

        It raises `ReloadFailed` for a folder without a usable model, `Unavailable` where the device takes no work.
        """
        self._others = self._others or others
        return self._runs.begin()

    async def _run(self) -> None:
        others, self._others = self._others, False
        try:
            await self._reload()
        except Exception as failure:
            self._metrics.reloads["failed"].inc()
            told = isinstance(failure, ServiceError)
            log.error("not reloaded: %s", failure, exc_info=None if told else failure)  # noqa: TRY400  # as it says
            raise
        if others and self._on_reloaded is not None:
            self._on_reloaded()

    async def _reload(self) -> None:
        await self._engine.warmed()
        before = self._engine.served.model
        try:
            checkpoint = await run_in_own_thread(partial(read_checkpoint, self._folder))
            for warning in checkpoint.warnings:
                log.warning(warning)
            await self._engine.replace(checkpoint)
        except (CheckpointError, OutOfMemory) as failure:
            said = str(failure).replace(str(self._folder), self._folder.name)
            raise ReloadFailed(f"{said}; {before} goes on serving") from failure
        self._metrics.reloads["done"].inc()
        log.info("reloaded: %s serves after %s", self._engine.served.model, before)
