"""Single flight: concurrent callers of a job share its runs."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_REST_SECONDS = 0.5
"""Longest pause between two runs."""


class SingleFlight(Generic[T]):
    """A job that runs once at a time. A caller gets the result of a run that starts after the call.

    So at most one run is pending while another one is active. After each run the job rests for `rest` times the seconds
    that the run took, at most `MAX_REST_SECONDS`, which limits the job to a share of the time.
    """

    def __init__(self, job: Callable[[], Awaitable[T]], rest: float = 0.0) -> None:
        self._job = job
        self._rest = rest
        self._earliest_start = 0.0
        self._lock = asyncio.Lock()
        self._pending: asyncio.Task[T] | None = None
        self._tasks: set[asyncio.Task[T]] = set()

    def begin(self) -> asyncio.Task[T]:
        """Return the pending run; without one, schedule it. Await it through `asyncio.shield`: callers share it.

        Needs a running event loop. An exception is raised to the callers that await the run.
        """
        if self._pending is None:
            self._pending = asyncio.create_task(self._run())
            self._tasks.add(self._pending)
            self._pending.add_done_callback(self._done)
        return self._pending

    async def _run(self) -> T:
        async with self._lock:
            await asyncio.sleep(max(0.0, self._earliest_start - time.monotonic()))
            self._pending = None
            started = time.monotonic()
            try:
                return await self._job()
            finally:
                ended = time.monotonic()
                self._earliest_start = ended + min(MAX_REST_SECONDS, self._rest * (ended - started))

    def _done(self, task: "asyncio.Task[T]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # mark it as retrieved: no caller may be left to await it
