"""Thread pool of the codecs, with a priority queue that keeps a thread free for small jobs (ADR 7)."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from heapq import heappop, heappush
from itertools import count
from threading import Barrier
from typing import Any, Generic, NamedTuple, TypeVar

LARGE = 2**21
"""Pixels or bytes from which a job is large: some 0.1 s of a thread."""

DELAY = 1e-6
"""Seconds for each pixel or byte by which a job may be overtaken: some ten times as long as it takes."""

T = TypeVar("T")


def divide_into_jobs(costs: Sequence[int]) -> Iterator[slice]:
    """Divide images of these costs into jobs that are no longer than `LARGE`, or hold a single image.

    Between two jobs of a request the jobs of other requests have a turn.
    """
    start, cost = 0, 0
    for index, more in enumerate(costs):
        if index > start and cost + more > LARGE:
            yield slice(start, index)
            start, cost = index, 0
        cost += more
    yield slice(start, len(costs))


class _Job(NamedTuple, Generic[T]):
    """A job that waits; the first two fields order it."""

    due: float
    number: int
    result: asyncio.Future[T]
    work: list[Callable[[], T]]
    """The work, or nothing once the job was cancelled: then what the work needs is freed."""


class CodecThreads:
    """Threads that run jobs in the order of `due`: the time of arrival plus a delay in proportion to the cost.

    A small job overtakes large ones, and a large job is overtaken for a bounded time. Large jobs run on all threads but
    one. All public methods are called on the event loop.
    """

    def __init__(self, threads: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.threads = threads
        self._clock = clock
        self._executor = ThreadPoolExecutor(threads, "codec")
        self._numbers = count()
        self._waiting: dict[bool, list[_Job[Any]]] = {False: [], True: []}  # heaps; True: of large jobs
        self._running = {False: 0, True: 0}

    def start(self) -> None:
        """Start all threads: later there may be no memory to start one."""
        all_started = Barrier(self.threads)
        for _ in range(self.threads):
            self._executor.submit(all_started.wait)

    def close(self) -> None:
        """Let the threads end after the jobs that they run."""
        self._executor.shutdown(wait=False)

    async def run(self, cost: int, work: Callable[[], T]) -> T:
        """Run a job of so many pixels or bytes in a thread; a job that is cancelled before it starts never runs."""
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        job = _Job(self._clock() + DELAY * cost, next(self._numbers), result, [work])
        del work
        heappush(self._waiting[cost >= LARGE], job)
        self._start_jobs()
        try:
            return await result
        finally:
            job.work.clear()
            del (
                job,
                result,
            )  # an error has this frame in its traceback, and so all bodies in it until garbage collection

    def _start_jobs(self) -> None:
        while (large := self._next_class()) is not None:
            job = heappop(self._waiting[large])
            if not job.result.done():
                self._running[large] += 1
                done = self._executor.submit(job.work.pop())
                done.add_done_callback(partial(self._report, job.result, large))

    def _next_class(self) -> bool | None:
        """Return whether the next job is a large one, or None if no job can start."""
        free = self.threads - sum(self._running.values())
        large_may_start = self._running[True] < max(1, self.threads - 1)
        ready = [large for large, jobs in self._waiting.items() if jobs and free and (large_may_start or not large)]
        return min(ready, key=lambda large: self._waiting[large][0][:2], default=None)

    def _report(self, result: asyncio.Future[Any], large: bool, done: Future[Any]) -> None:
        """Notify the event loop, from a thread, that a job is done."""
        with suppress(RuntimeError):  # the event loop was closed meanwhile
            result.get_loop().call_soon_threadsafe(self._complete, result, large, done)

    def _complete(self, result: asyncio.Future[Any], large: bool, done: Future[Any]) -> None:
        self._running[large] -= 1
        if not result.done():
            if error := done.exception():
                result.set_exception(error)
            else:
                result.set_result(done.result())
        self._start_jobs()
