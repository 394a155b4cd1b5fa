"""Reload of the model from its folder, without interruption; a folder without a usable model changes nothing.

A client can trigger a reload, but only the folder that the settings name is ever read.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from app.batching.executor import OutOfMemory
from app.errors import ReloadFailed, ServiceError, Unavailable
from app.inference.engine import Engine
from app.inference.threads import run_in_own_thread
from app.observability.metrics import Metrics, ReloadOutcome
from app.settings import Settings
from app.single_flight import SingleFlight
from model.files import CheckpointError
from model.formats import read_model

log = logging.getLogger(__name__)

MAX_SECONDS = 600.0
"""Longest reload: reading or downloading the files, compiling, and the warm-up."""


class ModelReloader:
    """Runs reloads one at a time, each to its end, even if the client has disconnected.

    Requests that arrive during a reload share the next one. `on_reloaded` is called after a reload that the other
    workers should follow. A reload of more than `max_seconds` fails, so that the next one may start.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        metrics: Metrics,
        on_reloaded: Callable[[], None] | None = None,
        max_seconds: float = MAX_SECONDS,
    ) -> None:
        self._engine = engine
        self._folder = settings.model
        self._metrics = metrics
        self._on_reloaded = on_reloaded
        self._max_seconds = max_seconds
        self._others = False
        self._runs = SingleFlight(self._run)

    def begin(self, *, others: bool = False) -> asyncio.Task[None]:
        """Load, verify, warm up and swap the model in the next reload; with `others`, the other workers follow.

        The task raises `ReloadFailed` for a folder without a usable model, `Unavailable` if the device has stopped.
        """
        self._others = self._others or others
        return self._runs.begin()

    async def _run(self) -> None:
        others, self._others = self._others, False
        try:
            await self._reload()
        except Exception as failure:
            self._metrics.reloads[ReloadOutcome.FAILED].inc()
            expected = isinstance(failure, ServiceError)
            level = logging.INFO if isinstance(failure, Unavailable) else logging.ERROR  # the service is ending
            log.log(level, "not reloaded: %s", failure, exc_info=None if expected else failure)
            raise
        if others and self._on_reloaded is not None:
            self._on_reloaded()

    async def _reload(self) -> None:
        await self._engine.wait_until_warm()
        before = self._engine.loaded_model.identity
        try:
            async with asyncio.timeout(self._max_seconds):
                stored = await run_in_own_thread(partial(read_model, self._folder))
                for warning in stored.warnings:
                    log.warning(warning)
                await self._engine.replace(stored)
        except TimeoutError:
            reason = f"{self._folder.name}: not ready after {self._max_seconds:g} s"
            raise ReloadFailed(f"{reason}; {before} goes on serving") from None
        except (CheckpointError, OutOfMemory) as failure:
            reason = str(failure).replace(str(self._folder), self._folder.name)
            raise ReloadFailed(f"{reason}; {before} goes on serving") from failure
        self._metrics.reloads[ReloadOutcome.SUCCESS].inc()
        log.info("reloaded: %s serves after %s", self._engine.loaded_model.identity, before)
