"""Execution of batches, on the event loop or on the device thread.

A batch that fails is bisected until the failing row is isolated, so that it fails its own request and no other. After
an out-of-memory error the batch is halved, and later batches of the operation keep to the size that fitted.
"""

import asyncio
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from app.batching.queue import FairQueue
from app.batching.requests import Abandoned, Batch, QueuedRequest
from app.errors import DeadlineExceeded, ServiceError, Unavailable
from app.observability.metrics import FinishedBatch, Metrics

log = logging.getLogger(__name__)

NEWEST_WEIGHT = 0.1
"""Weight of the newest batch in the average throughput."""


class OutOfMemory(Exception):
    """The device has no memory for this batch. A smaller one may fit."""


class DeviceLost(Exception):
    """The device cannot be used again in this process."""


class DeviceTask:
    """A function that runs on the device thread, and the future of its result."""

    def __init__(self, function: Callable[[], Any], future: "asyncio.Future[Any]") -> None:
        self._function = function
        self.future = future
        self.answers: Any = None

    def run(self) -> None:
        """Call the function and keep what it returns."""
        self.answers = self._function()


Work = Batch | DeviceTask
Deliver = Callable[[Sequence[QueuedRequest | DeviceTask], BaseException | None], None]
"""Settles requests on the event loop, as `settle` does."""


def settle(requests: Sequence[QueuedRequest | DeviceTask], failure: BaseException | None) -> None:
    """Give each request its results, or the failure of them all, unless its future is done."""
    for request in requests:
        if request.future.done():
            continue
        if failure is None:
            request.future.set_result(request.answers)
        else:
            request.future.set_exception(failure)


class BatchRunner:
    """Runs a batch by its key, isolates failing rows, and counts what was computed."""

    def __init__(self, queue: FairQueue, metrics: Metrics) -> None:
        self._items = self._seconds = 0.0  # of a recent batch, on average
        self._queue = queue
        self._metrics = metrics

    @property
    def items_per_second(self) -> float:
        """The throughput of recent batches; 0 while no batch has taken a measurable time."""
        return self._items / self._seconds if self._seconds > 0 else 0.0

    def run(self, batch: Batch, deliver: Deliver) -> None:
        """Run a batch, and deliver each request that is complete or has failed; lets `DeviceLost` through."""
        failure = self._attempt(batch) if batch.rows else None
        if failure is None:
            deliver([request for request in batch.requests if request.answered == request.size], None)
        else:
            self._isolate(batch, failure, deliver)

    def _isolate(self, batch: Batch, failure: ServiceError | None, deliver: Deliver) -> None:
        """Bisect a batch that has failed, until each part is computed or is a single row that fails."""
        parts, part, max_rows = [], batch, batch.rows
        while True:
            if isinstance(failure, Unavailable):
                max_rows = max(1, part.rows // 2)
            if failure and part.rows == 1:
                part.requests[0].fail()
                deliver(part.requests, failure)
            elif failure or part.rows > max_rows:
                parts += reversed(part.bisect())
            elif part.rows:
                self._lower_batch_limit(batch, max_rows)
                deliver([request for request in part.requests if request.answered == request.size], None)
            if not parts:
                return
            part, now = parts.pop().without_expired(), time.monotonic()
            for request in part.requests:
                request.end_wait(now)
            failure = self._attempt(part) if 0 < part.rows <= max_rows else None

    def _attempt(self, batch: Batch) -> ServiceError | None:
        """Compute a batch and give its requests their results; return the failure if there is one."""
        start = stacked_at = time.monotonic()
        try:
            stacked = batch.key.stack(batch.parts)
            rows, stacked_at = len(stacked), time.monotonic()
            results = batch.key.run(stacked, single=batch.single, check=batch.require_needed)
            end = time.monotonic()
            parts = batch.split(results, type(stacked), rows)
        except DeviceLost:
            raise
        except Abandoned:
            for request in batch.requests:
                request.fail()
            return DeadlineExceeded("the answer was not ready within the request's deadline")
        except Exception as failure:  # noqa: BLE001  # the model may raise anything; the request and the log get it
            end = time.monotonic()
            for request in batch.requests:
                request.record_batch(start, stacked_at, end)
            return self._to_error(batch, failure)
        for request, part, count in zip(batch.requests, parts, batch.counts, strict=True):
            request.complete_rows(part, count, start, stacked_at, end)
        self._record_metrics(batch, rows, end - start, end - stacked_at)
        return None

    def _to_error(self, batch: Batch, failure: Exception) -> ServiceError:
        operation = batch.key.operation
        text = "%d items to %s failed with %s: %s"
        log.warning(text, batch.rows, operation, type(failure).__name__, failure, exc_info=batch.rows == 1)
        if isinstance(failure, OutOfMemory | MemoryError):
            self._metrics.out_of_memory[operation].inc()
            return Unavailable("the device has no memory left for a single item of this request")
        return ServiceError(f"the model failed on item {batch.requests[0].answered} of this request")

    def _lower_batch_limit(self, batch: Batch, rows: int) -> None:
        """Limit the operation to the number of rows that fitted, if that is less than the batch had."""
        operation, items = batch.key.operation, rows * batch.key.weight
        if rows < batch.rows and items < self._queue.batch_limit(operation):
            self._queue.set_batch_limit(operation, items)
            self._metrics.batch_limit[operation].set(items)
            log.warning("the device ran out of memory: batches of %s are limited to %d items", operation, items)

    def _record_metrics(self, batch: Batch, padded_rows: int, seconds: float, device_seconds: float) -> None:
        operation = batch.key.operation
        padding = padded_rows - batch.rows
        self._metrics.count_batch(FinishedBatch(operation, batch.trigger, batch.rows, padding, device_seconds))
        self._items += (batch.rows * batch.key.weight - self._items) * NEWEST_WEIGHT
        self._seconds += (seconds - self._seconds) * NEWEST_WEIGHT


class Executor(ABC):
    """Runs one batch or device task at a time, and settles all that is in it.

    `completed` is called after each, also after an error, with the seconds that it took. `failed` is called if the
    device cannot be used again.
    """

    def __init__(
        self,
        runner: BatchRunner,
        completed: Callable[[Work, float], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._runner = runner
        self._completed = completed
        self._failed = failed

    @abstractmethod
    def deliver(self, requests: Sequence[QueuedRequest | DeviceTask], failure: BaseException | None) -> None:
        """Settle requests on the event loop, as `settle` does."""

    def execute(self, work: Work) -> None:
        """Run a batch or a task. An `Exception` fails its requests, anything else and `DeviceLost` the device."""
        start = time.monotonic()
        try:
            if isinstance(work, Batch):
                self._runner.run(work, self.deliver)
            else:
                work.run()
                self.deliver([work], None)
        except Exception as failure:  # noqa: BLE001  # a batch may fail in any way
            self._fail(work, failure)
        except BaseException as failure:  # noqa: BLE001  # such as SystemExit in native code: the process restarts
            self._failed(failure)
        finally:
            self._completed(work, time.monotonic() - start)

    def _fail(self, work: Work, failure: Exception) -> None:
        if isinstance(work, DeviceTask):
            self.deliver([work], failure)
        elif not isinstance(failure, DeviceLost):
            log.error("a batch of %d items to %s failed", work.rows, work.key.operation, exc_info=failure)
            for request in work.requests:
                request.fail()
            self.deliver(work.requests, ServiceError("the batch of this request failed"))
        if isinstance(failure, DeviceLost):
            self._failed(failure)


class InlineExecutor(Executor):
    """Runs batches on the event loop: for a short batch, two switches of threads would take longer."""

    deliver = staticmethod(settle)


class ThreadExecutor(Executor):
    """Runs batches and tasks on the device thread, which takes the next one by itself until there are no more."""

    def start(self, next_work: Callable[[], Work | None], ended: Callable[[], None]) -> None:
        """Start the thread; results go to the running event loop. `ended` is called on the thread at its end."""
        self._loop = asyncio.get_running_loop()
        self._next_work, self._ended = next_work, ended
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()

    def deliver(self, requests: Sequence[QueuedRequest | DeviceTask], failure: BaseException | None) -> None:
        self._loop.call_soon_threadsafe(settle, requests, failure)

    def _run(self) -> None:
        try:
            while self._run_next():
                pass
        except BaseException as failure:  # noqa: BLE001  # without its device thread the service is not alive, and ends
            self._failed(failure)
        finally:
            self._ended()

    def _run_next(self) -> bool:
        """Execute the next work, and keep no reference to it: a model that was replaced must be freed."""
        work = self._next_work()
        if work is not None:
            self.execute(work)
        return work is not None
