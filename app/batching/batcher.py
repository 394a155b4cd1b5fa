"""The batcher: many concurrent requests share batches on one device.

A batch starts as soon as the device is free; a single request never waits for others. A short batch runs inline on the
event loop, unless a backlog exists or the device thread is at work. All others run on the device thread. Every request
that was accepted is answered, also if the batcher is closed or the device fails.
"""

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from app.batching.executor import BatchRunner, DeviceTask, InlineExecutor, ThreadExecutor, Work, settle
from app.batching.queue import FairQueue
from app.batching.requests import Batch, BatchKey, QueuedRequest, Rows
from app.context import RequestContext
from app.errors import DeadlineExceeded, QueueFull, Unavailable
from app.observability.metrics import OPERATIONS, DropReason, Metrics

log = logging.getLogger(__name__)

T = TypeVar("T")

RESERVED_QUEUE_SHARE = 1 / 8
"""Largest part of the queue that is kept free for a large request that was refused. As much room is added for small
requests, so that large ones cannot keep them out."""

SMALL_REQUEST_SHARE = 1 / 64
"""Part of the queue up to which a request counts as small."""

EXPIRY_INTERVAL = 0.01
"""Least number of seconds between two searches for expired requests; each looks at all requests in flight."""


class Batcher:
    """Queues requests, forms batches, and runs them on one device.

    A batch has at most `max_batch_size` items, and at most `max_queue_items` wait, besides small requests. A batch that
    is not full waits `max_delay` seconds for more rows; 0 dispatches at once.
    """

    def __init__(self, metrics: Metrics, *, max_batch_size: int, max_queue_items: int, max_delay: float = 0.0) -> None:
        self._metrics = metrics
        self._max_queue_items = max_queue_items
        self._reserve_size = int(max_queue_items * RESERVED_QUEUE_SHARE)
        self._max_small_items = int(max_queue_items * SMALL_REQUEST_SHARE)
        self._reserved_items = 0  # for a large request that was refused
        self._small_items = 0  # of small requests beyond `max_queue_items`
        self._queue = FairQueue(max_batch_size, max_delay)
        self._runner = BatchRunner(self._queue, metrics)
        self._inline = InlineExecutor(self._runner, self._complete, self._stop)
        self._thread = ThreadExecutor(self._runner, self._complete, self._stop)
        self._tasks: deque[DeviceTask] = deque()
        self._handed_over: Batch | None = None
        self._in_flight: set[QueuedRequest | DeviceTask] = set()
        self._next_expiry, self._last_expiry = math.inf, -math.inf
        self._expiry: asyncio.TimerHandle | None = None
        self._busy = True  # until the device thread is started
        self._started = self._closing = self._dispatch_scheduled = False
        self._failure: BaseException | None = None
        self._lock = threading.Lock()  # held for the queue and for the state above
        self._changed = threading.Condition(self._lock)

    @property
    def alive(self) -> bool:
        """Whether the device thread runs."""
        return self._started and self._thread.alive

    @property
    def ready(self) -> bool:
        """Whether requests are accepted."""
        return self._started and not self._closing

    @property
    def unready_reason(self) -> str:
        """Why requests are not accepted, or cannot be computed yet."""
        if self._failure:
            return "the device has stopped"
        return "the service is shutting down" if self._closing else "the model is warming up"

    @property
    def queued_items(self) -> int:
        """The number of items in the queue."""
        return self._queue.depth

    @property
    def idle(self) -> bool:
        """Whether the device has nothing to do, so that the event loop may run a batch itself."""
        return not (self._busy or self._tasks or self._failure)

    def start(self) -> None:
        """Start the device thread; results are delivered to the running event loop."""
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self._thread.start(self._next_work, self._fail_all)
        self._started, self._busy = True, False

    async def close(self) -> None:
        """Refuse new requests, answer those that were accepted, and stop the device thread."""
        with self._lock:
            self._closing = True
            self._changed.notify()
        await self._ended.wait()  # an event needs no thread of a pool, which may be busy for long
        self._thread.join()

    async def submit(self, key: BatchKey, rows: Rows, context: RequestContext) -> list[Any]:
        """Compute rows in batches with other requests of the same key.

        Returns the results in order, in as many parts as it took batches. Raises `QueueFull` if the queue has no room,
        `DeadlineExceeded` when the deadline of `context` passes, `Unavailable` if no requests are accepted or the
        device fails, `ServiceError` if the computation fails.
        """
        request = QueuedRequest(key, rows, context, self._loop.create_future())
        with self._lock:
            if self._closing:
                raise Unavailable(self.unready_reason)
            small_items = self.check_capacity(request.size * key.weight)
            self._queue.add(request)
            self._small_items += small_items
        self._in_flight.add(request)
        if not self._dispatch_scheduled:  # after all callbacks that are ready now: what arrives together shares a batch
            self._dispatch_scheduled = True
            self._loop.call_soon(self._dispatch)
        if context.deadline < self._next_expiry:
            self._expire_by(context.deadline)
        try:
            return await request.future
        except (DeadlineExceeded, asyncio.CancelledError) as end:
            expired = isinstance(end, DeadlineExceeded)
            self._metrics.dropped[DropReason.TIMED_OUT if expired else DropReason.CANCELLED].inc()
            raise
        finally:
            self._in_flight.discard(request)
            self._small_items -= small_items
            if request.remaining:
                self._discard(request)

    async def run_on_device(self, function: Callable[[], T]) -> T:
        """Run a function on the device thread between two batches, and return or raise what it does.

        Raises `Unavailable` if no requests are accepted or the device fails.
        """
        task = DeviceTask(function, self._loop.create_future())
        with self._lock:
            if self._closing:
                raise Unavailable(self.unready_reason)
            self._tasks.append(task)
            self._changed.notify()
        self._in_flight.add(task)
        try:
            result: T = await task.future
        finally:
            self._in_flight.discard(task)
        return result

    def set_batch_limits(self, limits: dict[str, int]) -> None:
        """Limit the items in a batch of these operations; all others are limited by `max_batch_size` alone."""
        with self._lock:
            self._queue.set_batch_limits(limits)
        for operation in OPERATIONS:
            self._metrics.batch_limit[operation].set(limits.get(operation, 0))

    def check_capacity(self, items: int = 1) -> int:
        """Raise `QueueFull`, with the time after which to retry, if the queue has no room for so many items.

        A small request must not overtake a larger one that was just refused: up to `RESERVED_QUEUE_SHARE` of the queue
        is kept free until a request finds room for as much. Else small requests would fill each gap. Nor must large
        requests that keep the queue full lock out small ones, which have room of their own. A request of more items
        than the queue holds gets the whole queue. Returns how many of the items need that room.
        """
        items = min(items, self._max_queue_items)
        depth, limit = self._queue.depth, self._max_queue_items
        if depth - self._small_items + max(items, self._reserved_items) <= limit:
            self._reserved_items = 0
            return 0
        if items <= self._max_small_items:
            limit += self._reserve_size
            if self._small_items + items <= self._reserve_size:
                return items
        self._reserved_items = max(self._reserved_items, min(items, self._reserve_size))
        self._metrics.rejected.inc()
        rate = self._runner.items_per_second
        wait = math.ceil(depth / rate) if rate else 1
        needed = max(items, self._reserved_items)
        detail = f"the queue holds {depth} of {limit} images, no room for {needed} more"
        raise QueueFull(detail, retry_after=max(1, wait))

    def _dispatch_later(self) -> None:
        """Schedule a dispatch, unless one is scheduled."""
        if not self._dispatch_scheduled:
            self._dispatch_scheduled = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Run the next batch inline if it is due and short; leave any other work to the device thread."""
        self._dispatch_scheduled = False
        batch, queue = None, self._queue
        try:
            with self._lock:
                if not (self._busy or self._tasks or self._failure):
                    batch = queue.take(flush=self._closing)
                self._busy = self._busy or batch is not None
                # With a backlog the batch runs on the thread, so that the event loop stays responsive.
                if batch is None or not batch.key.policy.inline or queue.depth > batch.rows * batch.key.weight:
                    self._handed_over = batch or self._handed_over
                    self._changed.notify()
                    return
        except BaseException as failure:  # noqa: BLE001  # such as a key without a policy
            self._stop(failure)
            return
        self._inline.execute(batch)
        if queue.depth or self._closing:
            self._loop.call_soon(self._dispatch_later)  # one turn later: the loop first reads what has arrived

    def _expire_by(self, deadline: float) -> None:
        """Look for expired requests at this time, which is before the one planned so far."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._next_expiry = max(deadline, self._last_expiry + EXPIRY_INTERVAL)
        self._expiry = self._loop.call_later(self._next_expiry - time.monotonic(), self._expire)

    def _expire(self) -> None:
        """Fail the requests past their deadlines. One timer serves all: few requests reach theirs."""
        now, self._next_expiry = time.monotonic(), math.inf
        self._last_expiry = now
        requests = [request for request in self._in_flight if isinstance(request, QueuedRequest)]
        expired = [request for request in requests if request.context.deadline <= now]
        settle(expired, DeadlineExceeded("the answer was not ready within the request's deadline"))
        later = [request.context.deadline for request in requests if request.context.deadline > now]
        if later:
            self._expire_by(min(later))

    def _discard(self, request: QueuedRequest) -> None:
        """Remove a request from the queue that was cancelled, has expired or has failed."""
        request.end_wait(time.monotonic())
        with self._lock:
            self._queue.remove(request)

    # The methods below run on the device thread; `_complete` and `_stop` run on the event loop as well.

    def _next_work(self) -> Work | None:
        """Wait for the next batch or task; None after the device has failed, or all is done after closing."""
        with self._lock:
            while not self._failure:
                if (work := self._take_work()) is not None:
                    self._busy = True
                    return work
                if self._closing and not self._busy and not self._queue:
                    return None
                waiting = self._queue and not self._busy
                self._changed.wait(self._queue.seconds_until_dispatch() if waiting else None)
            return None

    def _take_work(self) -> Work | None:
        if self._handed_over:
            batch, self._handed_over = self._handed_over, None
            return batch
        if self._busy:
            return None  # the event loop runs a batch, and notifies at its end
        return self._tasks.popleft() if self._tasks else self._queue.take(flush=self._closing)

    def _complete(self, work: Work, seconds: float) -> None:
        """Charge a batch for its time, and mark the device as free."""
        with self._lock:
            self._busy = False
            if isinstance(work, Batch):
                self._queue.charge(work, seconds)

    def _stop(self, failure: BaseException) -> None:
        """Refuse new requests, and end the device thread, which then fails all requests in flight."""
        log.critical("the device is lost, or its thread failed; only a restart helps", exc_info=failure)
        with self._lock:
            self._closing, self._failure = True, failure
            self._changed.notify()

    def _fail_all(self) -> None:
        """Fail all requests and tasks in flight, and report the end of the device thread."""
        with self._lock:
            self._closing = True
            self._queue.clear()
        self._loop.call_soon_threadsafe(self._fail_in_flight)

    def _fail_in_flight(self) -> None:
        settle([*self._in_flight], Unavailable("the device has stopped"))
        self._ended.set()
