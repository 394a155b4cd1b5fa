"""Batches on their way through the device; one that fails is taken apart until the row that poisons it stands alone.

A poisoned batch fails the request that poisoned it and no other. A device without room for a batch gets smaller ones,
then and from then on.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from app.batching.policy import BatchPolicy
from app.batching.queue import FairQueue
from app.batching.requests import Batch, QueuedRequest
from app.errors import ServiceError, Unavailable
from app.observability.metrics import Metrics

log = logging.getLogger(__name__)


SHARE = 0.1
"""Of the newest batch in the averages that give the rate."""


class OutOfMemory(Exception):
    """The device has no room for this batch; it may have for a smaller one."""


class DeviceLost(Exception):
    """The device will not work again in this process."""


class Device(Protocol):
    """What runs batches, one at a time; both verbs may raise `OutOfMemory` or `DeviceLost`."""

    def pace(self, kind: Any) -> BatchPolicy:
        """How many rows of it make a batch, and whether the event loop can run that itself."""

    def stack(self, kind: Any, parts: Sequence[Any]) -> Any:
        """One batch out of the parts of several requests."""

    def infer(self, kind: Any, batch: Any, *, alone: bool) -> Any:
        """The batch's answers, as rows in the same order; `alone` is one row while nobody waits."""


class Completed(NamedTuple):
    """Requests that need the device no more: answered in full, or failed."""

    entries: Sequence[QueuedRequest]
    failure: ServiceError | None = None


class BatchExecutor:
    """Runs batches on a device."""

    def __init__(self, device: Device, queue: FairQueue, metrics: Metrics) -> None:
        self._images = self._seconds = 0.0  # of a recent batch, on average
        self._device = device
        self._queue = queue
        self._metrics = metrics

    @property
    def rate(self) -> float:
        """Images a second in the last batches; 0 while none has taken a measurable time."""
        return self._images / self._seconds if self._seconds > 0 else 0.0

    def run(self, batch: Batch) -> Iterator[Completed]:
        """What the batch settles, piece by piece, in the order of its rows; lets `DeviceLost` through."""
        pieces, room = [batch], batch.rows
        while pieces:
            piece = pieces.pop()
            if piece is not batch:
                piece = piece.living()  # meanwhile somebody may have left, or failed
            failure = self._attempt(piece) if 0 < piece.rows <= room else None
            if isinstance(failure, Unavailable):
                room = max(1, piece.rows // 2)
            if failure and piece.rows == 1:
                piece.entries[0].failed = True
                yield Completed(piece.entries, failure)
            elif failure or piece.rows > room:
                pieces += reversed(piece.halves())
            elif piece.rows:
                self._remember(batch, room)
                yield Completed([entry for entry in piece.entries if entry.complete])

    def _attempt(self, piece: Batch) -> ServiceError | None:
        start = stacked_at = time.monotonic()
        for entry in piece.entries:
            entry.stop_waiting(start)
        try:
            stacked = self._device.stack(piece.kind, piece.parts)
            stacked_at = time.monotonic()
            answers = self._device.infer(piece.kind, stacked, alone=piece.alone)
            end = time.monotonic()
            parts = piece.cut(answers, len(stacked))
        except DeviceLost:
            raise
        except Exception as failure:  # noqa: BLE001  # whatever the model raises is told to the caller and the log
            self._spend(piece, start, stacked_at, time.monotonic())
            return self._told(piece, failure)
        self._spend(piece, start, stacked_at, end)
        self._account(piece, end - start, end - stacked_at)
        piece.hand_out(parts)
        return None

    def _told(self, piece: Batch, failure: Exception) -> ServiceError:
        operation = piece.kind.operation
        text = "%d items to %s failed with %s: %s"
        log.warning(text, piece.rows, operation, type(failure).__name__, failure, exc_info=piece.rows == 1)
        if isinstance(failure, OutOfMemory | MemoryError):
            self._metrics.out_of_memory[operation].inc()
            return Unavailable("the device has no memory left for a single item of this request")
        return ServiceError(f"the model failed on item {piece.entries[0].answered} of this request")

    def _remember(self, batch: Batch, rows: int) -> None:
        operation, images = batch.kind.operation, rows * batch.kind.weight
        if rows < batch.rows and images < self._queue.limit(operation):
            self._queue.limits[operation] = images
            self._metrics.batch_limit[operation].set(images)
            log.warning("after running out of memory the device is given at most %d images to %s", images, operation)

    def _spend(self, piece: Batch, start: float, stacked_at: float, end: float) -> None:
        """Count the time of a piece in each of its requests, which wait again from its end on."""
        for entry in piece.entries:
            entry.context.record_stage("batch", start, stacked_at)
            entry.context.record_stage("infer", stacked_at, end)
            entry.waits_since = end

    def _account(self, piece: Batch, seconds: float, on_device: float) -> None:
        operation = piece.kind.operation
        self._metrics.batches[operation, piece.dispatch].inc()
        self._metrics.batch_size[operation].observe(piece.rows)
        self._metrics.device_seconds[operation].observe(on_device)
        self._images += (piece.rows * piece.kind.weight - self._images) * SHARE
        self._seconds += (seconds - self._seconds) * SHARE
