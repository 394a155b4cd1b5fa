"""A request that waits for the device, and the batches that carry its rows there."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, Self

from app.batching.policy import BatchPolicy
from app.context import RequestContext
from app.observability.metrics import DispatchTrigger


class Abandoned(Exception):
    """No request needs the results of the batch any more."""


class Rows(Protocol):
    """The input of one request, or its results: a sequence that can be counted and sliced."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> Self: ...


class BatchKey(Protocol):
    """What requests of one batch have in common, and how the batch is computed.

    Requests with equal keys share batches. `weight` is the number of items that one row counts as. `stack` and `run`
    may raise `OutOfMemory` or `DeviceLost`. `run` may call `check` between two steps, and lets its `Abandoned` through.
    """

    @property
    def operation(self) -> str: ...
    @property
    def weight(self) -> int: ...
    @property
    def policy(self) -> BatchPolicy: ...
    def __hash__(self) -> int: ...

    def stack(self, parts: Sequence[Any]) -> Any:
        """Join the parts of several requests into one batch, padded where the device needs that."""

    def run(self, batch: Any, *, single: bool, check: Callable[[], None]) -> Any:
        """Compute the batch: rows of the same type, number and order. `single` is one row while no other waits."""


class QueuedRequest:
    """One request in the queue, with the future that its coroutine awaits.

    `remaining` rows are in no batch yet, and `answered` rows have their results. `waits_since` is the begin of the
    present wait for the device, None while a batch computes rows of the request. `virtual_start` is the virtual time of
    the request in the queue. `turn` is the number of rows that it gets in one turn, 1 + log2(rows), and its weight when
    the time of the device is divided: a large request gets more than a request of one row, and much less than as many
    requests of one row would. The queue and the executor update these fields.
    """

    __slots__ = (
        "answered",
        "answers",
        "arrived",
        "context",
        "failed",
        "future",
        "key",
        "remaining",
        "rows",
        "size",
        "turn",
        "virtual_start",
        "waits_since",
    )

    def __init__(self, key: BatchKey, rows: Any, context: RequestContext, future: "asyncio.Future[list[Any]]") -> None:
        self.key = key
        self.rows = rows
        self.context = context
        self.future = future
        self.size = self.remaining = len(rows)
        self.turn = max(1, self.size.bit_length())
        self.answered = 0
        self.answers: list[Any] = []
        self.failed = False
        self.virtual_start = 0.0
        self.arrived = time.monotonic()
        self.waits_since: float | None = self.arrived

    @property
    def cost(self) -> int:
        """The number of items that the remaining rows count as."""
        return self.remaining * self.key.weight

    @property
    def expired(self) -> bool:
        """Whether no result is needed any more: the request has failed, was cancelled, or is past its deadline."""
        return self.failed or self.future.done() or time.monotonic() >= self.context.deadline

    def take(self, count: int, now: float) -> Any:
        """Take the next rows for a batch, which ends the present wait."""
        if self.waits_since is not None:
            self.context.record_stage("queue", self.waits_since, now)
            self.waits_since = None
        start = self.size - self.remaining
        self.remaining -= count
        return self.rows if count == self.size else self.rows[start : start + count]

    def end_wait(self, now: float) -> None:
        """Record the present wait as time in the queue."""
        if self.waits_since is not None:
            self.context.record_stage("queue", self.waits_since, now)
            self.waits_since = None

    def record_batch(self, start: float, stacked: float, end: float) -> None:
        """Record the stages of a batch that has run: from `start`, stacked at `stacked`, until `end`."""
        self.context.record_stage("batch", start, stacked)
        self.context.record_stage("infer", stacked, end)
        self.waits_since = end

    def complete_rows(self, results: Any, count: int, start: float, stacked: float, end: float) -> None:
        """Keep the results of `count` rows, and record the stages of their batch."""
        self.context.record_stage("batch", start, stacked)
        self.context.record_stage("infer", stacked, end)
        self.waits_since = end
        self.answers.append(results)
        self.answered += count

    def fail(self) -> None:
        """Leave the request out of all further batches."""
        self.failed = True


class Batch(NamedTuple):
    """Parts of requests that are computed together, `rows` in all.

    `counts` is the number of rows in each part. `total_turns` is the sum of the turns of all requests that waited when
    the batch was taken. `single` is one row while no other request waits.
    """

    key: BatchKey
    requests: Sequence[QueuedRequest]
    parts: Sequence[Any]
    counts: Sequence[int]
    rows: int
    trigger: DispatchTrigger
    total_turns: int
    single: bool = False

    def require_needed(self) -> None:
        """Raise `Abandoned` if all requests have expired."""
        if all(request.expired for request in self.requests):
            raise Abandoned

    def without_expired(self) -> "Batch":
        """Return the batch without the parts of expired requests."""
        parts = zip(self.requests, self.parts, self.counts, strict=True)
        return self._of([each for each in parts if not each[0].expired])

    def bisect(self) -> tuple["Batch", "Batch"]:
        """Return the first and the second half of the rows; a part that lies across the middle is cut."""
        first: list[tuple[QueuedRequest, Any, int]] = []
        second: list[tuple[QueuedRequest, Any, int]] = []
        left = self.rows // 2
        for request, part, count in zip(self.requests, self.parts, self.counts, strict=True):
            head = min(left, count)
            first += [(request, part[:head], head)] if head else []
            second += [(request, part[head:], count - head)] if head < count else []
            left -= head
        return self._of(first), self._of(second)

    def split(self, results: Any, expected: type[Any], rows: int) -> list[Any]:
        """Return the results of each part; results of padding are left out.

        Raises `TypeError` unless the results are so many rows of the expected type.
        """
        if type(results) is not expected or len(results) != rows:
            msg = f"expected {rows} rows from the device as {expected.__name__}, got {type(results).__name__}"
            raise TypeError(msg)
        if len(self.counts) == 1 and rows == self.rows:
            return [results]
        parts, start = [], 0
        for count in self.counts:
            parts.append(results[start : start + count])
            start += count
        return parts

    def _of(self, parts: Sequence[tuple[QueuedRequest, Any, int]]) -> "Batch":
        requests, rows, counts = zip(*parts, strict=True) if parts else ((), (), ())
        return self._replace(requests=requests, parts=rows, counts=counts, rows=sum(counts), single=False)
