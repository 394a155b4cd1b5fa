"""The queue before the device: limited in items, and fair in device time; knows no thread.

Requests with equal keys wait in one `KeyQueue`. The time of the device is divided between requests by weighted fair
queueing (Demers, Keshav and Shenker, 1989). Each request has a virtual time: a batch advances it by the request's
part of the batch's seconds, over the weight of the request. The clock of the queue advances by the seconds of each
batch over the weight of all requests that wait, and a new request starts at that clock: it has no credit for the time
before, and a waiting request gets its share for any number of arrivals. The next batch has the key with the first
request that would end its turn at the least virtual time. Requests of the same key fill the rest of the batch.
"""

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from operator import attrgetter

from app.batching.requests import Batch, BatchKey, QueuedRequest
from app.observability.metrics import DispatchTrigger

MIN_CHARGE_SECONDS = 1e-6
"""Least time that a batch is charged with. While the system's clock stands still, keys take turns."""

MAX_ROW_SECONDS = 0.05
"""Longest time of one row that counts when the next key is chosen. Else rows of seconds would miss their deadlines."""

NEWEST_WEIGHT = 0.1
"""Weight of the newest batch in the average time of an item."""

_virtual_start = attrgetter("virtual_start")


class KeyQueue:
    """The requests of one key: those that wait for their first batch, and those that were computed in part.

    Each of the two is in order of arrival or of the last turn. `rows` is how many rows wait in all.
    """

    __slots__ = ("rows", "started", "unstarted")

    def __init__(self) -> None:
        self.unstarted: OrderedDict[QueuedRequest, None] = OrderedDict()  # removes any request in constant time
        self.started: OrderedDict[QueuedRequest, None] = OrderedDict()
        self.rows = 0

    def __bool__(self) -> bool:
        return bool(self.unstarted or self.started)

    def __iter__(self) -> Iterator[QueuedRequest]:
        yield from self.unstarted
        yield from self.started

    def __contains__(self, request: QueuedRequest) -> bool:
        return request in self.unstarted or request in self.started

    def heads(self) -> list[QueuedRequest]:
        """Return the first request that waits for its first batch, and the first of the others."""
        return [next(iter(part)) for part in (self.unstarted, self.started) if part]

    def head(self) -> QueuedRequest:
        """Return the next request."""
        return min(self.heads(), key=_virtual_start) if self.started else next(iter(self.unstarted))

    def add(self, request: QueuedRequest, *, first: bool = False) -> None:
        """Add a request behind the others like it, or before them."""
        part = self.unstarted if request.remaining == request.size else self.started
        part[request] = None
        if first:
            part.move_to_end(request, last=False)
        self.rows += request.remaining

    def remove(self, request: QueuedRequest) -> None:
        """Remove a request that is in the queue."""
        del (self.unstarted if request in self.unstarted else self.started)[request]
        self.rows -= request.remaining


class FairQueue:
    """All requests that wait, a queue for each key; `depth` is their cost in items.

    `max_delay` is how many seconds a batch that is not full waits for more rows. After each batch, `charge` advances
    the virtual times by the time that the batch took.
    """

    def __init__(self, max_batch_size: int, max_delay: float = 0.0) -> None:
        self._max_batch_size = max_batch_size
        self._max_delay = max_delay
        self._partial_trigger = DispatchTrigger.TIMEOUT if max_delay else DispatchTrigger.IDLE
        self._queues: dict[BatchKey, KeyQueue] = {}
        self._clock = 0.0
        self._total_turns = 0
        self._item_seconds: dict[str, float] = {}  # for each operation, on average
        self._limits: dict[str, int] = {}
        self.depth = 0

    def __bool__(self) -> bool:
        return bool(self._queues)

    def batch_limit(self, operation: str) -> int:
        """Return the most items that a batch of the operation may have."""
        return self._limits.get(operation, self._max_batch_size)

    def set_batch_limit(self, operation: str, items: int) -> None:
        """Limit the batches of one operation."""
        self._limits[operation] = items

    def set_batch_limits(self, limits: dict[str, int]) -> None:
        """Limit the batches of these operations, and lift the limits of all others."""
        self._limits = dict(limits)

    def add(self, request: QueuedRequest) -> None:
        """Add a request behind those with the same key."""
        queue = self._queues.get(request.key)
        if queue is None:
            queue = self._queues[request.key] = KeyQueue()
        request.virtual_start = self._clock
        queue.unstarted[request] = None
        queue.rows += request.size
        self._total_turns += request.turn
        self.depth += request.size * request.key.weight

    def remove(self, request: QueuedRequest) -> None:
        """Remove a request that was cancelled or has expired. A request that does not wait is ignored."""
        queue = self._queues.get(request.key)
        if queue is None or request not in queue:
            return
        queue.remove(request)
        self._total_turns -= request.turn
        self.depth -= request.cost
        if not queue:
            del self._queues[request.key]

    def seconds_until_dispatch(self) -> float:
        """Return how long the next batch may still wait for more rows; 0 or less if a batch is due."""
        return min(map(self._seconds_until_due, self._queues)) if self._max_delay else 0.0

    def take(self, *, flush: bool = False) -> Batch | None:
        """Take the next batch that is due, or with `flush` any batch; its requests may all be expired."""
        if not self._queues or (self._max_delay and not flush and self.seconds_until_dispatch() > 0):
            return None
        key = next(iter(self._queues)) if len(self._queues) == 1 else self._next_key()
        queue = self._queues.pop(key)
        max_rows, turns = self._max_rows(key), self._total_turns
        trigger = DispatchTrigger.FULL if queue.rows >= max_rows else self._partial_trigger
        requests = self._pop_unexpired(queue, max_rows)
        waiting = [request.remaining for request in requests]
        rows = min(max_rows, sum(waiting))
        if rows > 1:
            rows = key.policy.rows(rows)
        counts = waiting if rows >= sum(waiting) else allocate_rows(requests, waiting, rows)
        for request in reversed(requests[len(counts) :]):
            queue.add(request, first=True)
            self._total_turns += request.turn
        requests = requests[: len(counts)]
        now = time.monotonic()
        parts = [request.take(count, now) for request, count in zip(requests, counts, strict=True)]
        self.depth -= rows * key.weight
        for request in requests:
            if request.remaining:
                queue.add(request)
                self._total_turns += request.turn
        if queue.unstarted or queue.started:
            self._queues[key] = queue  # last among keys with the same virtual time
        return Batch(key, requests, parts, counts, rows, trigger, turns, rows == 1 and not self._queues)

    def charge(self, batch: Batch, seconds: float) -> None:
        """Charge the requests of a batch for the time that the batch took of the device."""
        seconds = max(seconds, MIN_CHARGE_SECONDS)
        self._clock += seconds / batch.total_turns
        if not batch.rows:
            return
        for request, count in zip(batch.requests, batch.counts, strict=True):
            if request.remaining:  # the others need the device no more
                request.virtual_start += seconds * (count / batch.rows) / request.turn
        operation, measured = batch.key.operation, seconds / (batch.rows * batch.key.weight)
        known = self._item_seconds.get(operation, measured)
        # The weight of a single delayed batch is bounded.
        self._item_seconds[operation] = known + (min(measured, 2 * known) - known) * NEWEST_WEIGHT

    def clear(self) -> list[QueuedRequest]:
        """Empty the queue and return the requests that waited."""
        requests = [request for queue in self._queues.values() for request in queue]
        self._queues.clear()
        self.depth = self._total_turns = 0
        return requests

    def _next_key(self) -> BatchKey:
        """Choose the key of the next batch among those that are due; among equals the one that has waited longest."""
        due = [key for key in self._queues if self._seconds_until_due(key) <= 0] if self._max_delay else self._queues
        return min(due or self._queues, key=self._virtual_end)

    def _virtual_end(self, key: BatchKey) -> float:
        """Return the virtual time at which the next turn of a key would end."""
        row_seconds = self._item_seconds.get(key.operation, 0.0) * key.weight
        return self._queues[key].head().virtual_start + min(row_seconds, MAX_ROW_SECONDS)

    def _seconds_until_due(self, key: BatchKey) -> float:
        queue = self._queues[key]
        if queue.rows >= self._max_rows(key):
            return 0.0
        return min(request.arrived for request in queue.heads()) + self._max_delay - time.monotonic()

    def _max_rows(self, key: BatchKey) -> int:
        limit = self._limits.get(key.operation, self._max_batch_size)
        return min(max(1, limit // key.weight), key.policy.max_rows)

    def _pop_unexpired(self, queue: KeyQueue, most: int) -> list[QueuedRequest]:
        """Remove up to `most` requests from a queue, and drop those that have expired."""
        requests: list[QueuedRequest] = []
        while (queue.unstarted or queue.started) and len(requests) < most:
            if queue.started:
                request = queue.head()
                queue.remove(request)
            else:
                request, _ = queue.unstarted.popitem(last=False)
                queue.rows -= request.remaining
            self._total_turns -= request.turn
            if request.expired:
                self.depth -= request.cost
            else:
                requests.append(request)
        return requests


def allocate_rows(requests: Sequence[QueuedRequest], waiting: Sequence[int], rows: int) -> Sequence[int]:
    """Divide the rows of a batch between requests; the result ends with the last request that gets any.

    First each request gets its turn. The rows that are left then are divided into equal shares.
    """
    given: list[int] = []
    for request, most in zip(requests, waiting, strict=True):
        if rows <= 0:
            return given
        given.append(min(most, request.turn, rows))
        rows -= given[-1]
    more = fair_shares([most - count for most, count in zip(waiting, given, strict=True)], rows)
    return [count + extra for count, extra in zip(given, more, strict=True)]


def fair_shares(waiting: Sequence[int], rows: int) -> list[int]:
    """Divide `rows` into equal shares for requests with so many waiting rows.

    A request with fewer waiting rows than its share leaves the rest to the larger requests.
    """
    given = [0] * len(waiting)
    smallest_first = sorted(range(len(waiting)), key=waiting.__getitem__)
    for place, index in enumerate(smallest_first):
        given[index] = min(waiting[index], rows // (len(waiting) - place))
        rows -= given[index]
    return given
