"""Runs of one job that concurrent callers share: one under way and one to come, however many ask."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

LONGEST_REST = 0.5
"""Seconds between two runs, at most."""


class SingleFlight(Generic[T]):
    """A job that runs once at a time. A caller gets the result of a run that begins after the call, never an older one.

    Between two runs there are `rest` times as many seconds as the first of them took, `LONGEST_REST` at most: so a job
    that is asked for without end takes a bounded share of the time.
    """

    def __init__(self, job: Callable[[], Awaitable[T]], rest: float = 0.0) -> None:
        self._job = job
        self._rest = rest
        self._earliest = 0.0
        self._turn = asyncio.Lock()
        self._to_come: asyncio.Task[T] | None = None
        self._tasks: set[asyncio.Task[T]] = set()

    def begin(self) -> asyncio.Task[T]:
        """The run to come, which is begun if there is none. It goes on when a caller leaves: wait for it by a shield.

        Needs a running event loop. A failure is raised to those who wait, and is no failure of the event loop.
        """
        if self._to_come is None:
            self._to_come = asyncio.create_task(self._run())
            self._tasks.add(self._to_come)
            self._to_come.add_done_callback(self._done)
        return self._to_come

    async def _run(self) -> T:
        async with self._turn:
            await asyncio.sleep(max(0.0, self._earliest - time.monotonic()))
            self._to_come = None
            began = time.monotonic()
            try:
                return await self._job()
            finally:
                ended = time.monotonic()
                self._earliest = ended + min(LONGEST_REST, self._rest * (ended - began))

    def _done(self, task: "asyncio.Task[T]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()
