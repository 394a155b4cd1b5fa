"""Many callers, one device: a lone request never waits for company, and a crowd shares batches.

A thread takes what has arrived whenever the device is free. What takes less time than the way to that thread is worth
runs where it was asked for, on the event loop, unless more of it waits. An entry carries its own future; nothing is
looked up by an id, nothing calls back up. Closing leaves nobody waiting, nor does the death of the device.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from app.batching.capacity import QueueCapacity
from app.batching.executor import BatchExecutor, Device, DeviceLost
from app.batching.futures import Job, expire, fulfil, settle
from app.batching.queue import FairQueue
from app.batching.requests import Batch, Kind, QueuedRequest, Rows
from app.context import RequestContext
from app.errors import DeadlineExceeded, ServiceError, Unavailable
from app.observability.metrics import OPERATIONS, Metrics

log = logging.getLogger(__name__)

T = TypeVar("T")


class Batcher:
    """The door to one device, and the thread that serves it."""

    def __init__(
        self, device: Device, metrics: Metrics, *, max_batch_size: int, max_queue_items: int, max_delay: float = 0.0
    ) -> None:
        self._metrics = metrics
        self._queue = FairQueue(max_batch_size, max_delay, device.pace)
        self._device = device
        self._runner = BatchExecutor(device, self._queue, metrics)
        self._admission = QueueCapacity(self._queue, self._runner, metrics, max_queue_items)
        self._pending: set[QueuedRequest] = set()
        self._jobs: deque[Job] = deque()
        self._handed: Batch | None = None
        self._lost: BaseException | None = None
        self._busy = True  # until the thread is there
        self._planned = self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="device", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the device thread is at work."""
        return self._thread.is_alive()

    @property
    def ready(self) -> bool:
        """Whether the device takes work."""
        return self.alive and not self._closing

    @property
    def idle(self) -> bool:
        """Whether the device is at nothing, so that the event loop may run a batch itself."""
        return not (self._busy or self._jobs or self._lost)

    def start(self) -> None:
        """Start the device thread; answers will be delivered to the running event loop."""
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self._thread.start()

    async def close(self) -> None:
        """Take no more work, answer what was accepted, stop the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await self._ended.wait()  # in no other thread: all that are shared may be busy, and for long
        self._thread.join()

    async def submit(self, kind: Kind, rows: Rows, context: RequestContext) -> list[Any]:
        """The answers to the rows, in order, in as many parts as it took batches.

        Raises `QueueFull` where the queue has no room, `DeadlineExceeded` when the deadline of `context` passes,
        `Unavailable` where the device takes no work, `ServiceError` where the request's batch failed.
        """
        entry = QueuedRequest(kind, rows, context, self._loop.create_future())
        with self._changed:
            if not self.ready:
                raise Unavailable
            self.require_room(entry.cost)
            self._queue.add(entry)
        self._pending.add(entry)
        self._plan()
        late = self._loop.call_later(context.deadline - time.monotonic(), expire, entry.future)
        try:
            return await entry.future
        except (DeadlineExceeded, asyncio.CancelledError) as end:
            self._metrics.dropped["timed_out" if isinstance(end, DeadlineExceeded) else "cancelled"].inc()
            raise
        finally:
            late.cancel()
            self._pending.discard(entry)
            self._forget(entry)

    async def perform(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises, done on the device thread between two batches.

        Raises `Unavailable` where the device takes no work.
        """
        job = Job(work, self._loop.create_future())
        with self._changed:
            if not self.ready:
                raise Unavailable
            self._jobs.append(job)
            self._changed.notify()
        answer: T = await job.future
        return answer

    def keep_to(self, limits: dict[str, int]) -> None:
        """Let no batch of these operations have more images than this, and every other as many as the settings say."""
        with self._changed:
            self._queue.limits = limits
        for operation in OPERATIONS:
            self._metrics.batch_limit[operation].set(limits.get(operation, 0))

    def require_room(self, images: int = 1) -> None:
        """Raise `QueueFull`, before any work is done for them, where the queue has no room for so many images."""
        self._admission.require_room(images)

    def _plan(self) -> None:
        if not self._planned:
            self._planned = True
            self._loop.call_soon(self._turn)  # after all that came in this turn of the loop, so that they share a batch

    def _turn(self) -> None:
        self._planned = False
        try:
            with self._changed:
                batch = self._claim()
            if batch is None:
                return
            self._run(batch, settle)
        except BaseException as failure:  # noqa: BLE001  # the device thread logs it, fails what waits, and ends
            with self._changed:
                self._closing, self._lost = True, failure
                self._changed.notify()
            return
        self._busy = False
        if self._queue or self._closing:
            self._loop.call_soon(self._plan)  # not at once: who came during the batch is heard before the next

    def _claim(self) -> Batch | None:
        """The batch that the event loop runs now; any other work is left to the device thread."""
        batch = self._due() if self.idle else None
        if batch:
            self._busy = True
            if self._at_once(batch):
                return batch
            self._handed = batch
        self._metrics.queue_items.set(self._queue.depth)
        self._changed.notify()
        return None

    def _due(self) -> Batch | None:
        return self._queue.take() if self._queue and (self._closing or self._queue.patience() <= 0) else None

    def _at_once(self, batch: Batch) -> bool:
        """Whether the event loop runs it; where more is left than it takes, callers are many, and want to be heard."""
        return self._device.pace(batch.kind).at_once and self._queue.depth <= batch.rows * batch.kind.weight

    def _forget(self, entry: QueuedRequest) -> None:
        if entry.waiting:
            entry.stop_waiting(time.monotonic())
            with self._changed:
                self._queue.remove(entry)
                self._metrics.queue_items.set(self._queue.depth)

    # What follows runs on the device thread.

    def _serve(self) -> None:
        try:
            while (work := self._next()) is not None:
                self._perform(work) if isinstance(work, Job) else self._run(work, self._deliver)
        except BaseException:  # without its device thread the service is not alive, and ends
            log.critical("the device is lost, or its thread failed; only a restart helps", exc_info=True)
        finally:
            self._abandon()
            self._loop.call_soon_threadsafe(self._ended.set)

    def _next(self) -> Batch | Job | None:
        with self._changed:
            self._busy = False
            while not self._lost and (self._handed or self._jobs or self._queue or not self._closing):
                if work := self._waiting():
                    self._busy = True
                    return work
                self._changed.wait(self._queue.patience() if self._queue and not self._busy else None)
            if self._lost:
                raise self._lost
            return None

    def _waiting(self) -> Batch | Job | None:
        if self._handed:
            batch, self._handed = self._handed, None
            return batch
        if self._busy:
            return None  # by the event loop, which tells when it is done
        if self._jobs:
            return self._jobs[0]  # it stays until it is done, so that a death does not forget it
        return self._due()

    def _perform(self, job: Job) -> None:
        try:
            answer = job.work()
        except Exception as failure:
            self._loop.call_soon_threadsafe(fulfil, job.future, None, failure)
            if isinstance(failure, DeviceLost):
                raise
        else:
            self._loop.call_soon_threadsafe(fulfil, job.future, answer)
        self._jobs.popleft()

    def _run(self, batch: Batch, deliver: Callable[[Sequence[QueuedRequest], ServiceError | None], None]) -> None:
        """Run a batch and settle its requests; after `DeviceLost`, and what is no `Exception`, `_abandon` does that."""
        self._metrics.queue_items.set(self._queue.depth)
        start = time.monotonic()
        try:
            for entries, failure in self._runner.run(batch):
                deliver(entries, failure)
        except DeviceLost:
            raise
        except Exception:
            log.exception("a batch of %d items to %s failed", batch.rows, batch.kind.operation)
            for entry in batch.entries:
                entry.failed = True
            deliver(batch.entries, ServiceError("the batch of this request failed"))
        with self._changed:
            self._queue.spend(time.monotonic() - start)

    def _deliver(self, entries: Sequence[QueuedRequest], failure: ServiceError | None) -> None:
        if entries:
            self._loop.call_soon_threadsafe(settle, entries, failure)

    def _abandon(self) -> None:
        """Fail all that still wait, in the queue or for a batch under way."""
        with self._changed:
            self._closing, jobs = True, [*self._jobs]
            self._queue.clear()
        stopped = Unavailable("the device has stopped")
        self._loop.call_soon_threadsafe(lambda: settle([*self._pending], stopped))
        for job in jobs:
            self._loop.call_soon_threadsafe(fulfil, job.future, None, stopped)
