"""A request that waits for the device, and the batches that carry its rows there."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from app.context import RequestContext


class Rows(Protocol):
    """What one request brings, and what it gets: a stack that can be counted and cut."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> Self: ...


class Kind(Protocol):
    """Rows of equal kinds can share a batch. `weight` is what one row costs the device, in images."""

    @property
    def operation(self) -> str: ...
    @property
    def weight(self) -> int: ...
    def __hash__(self) -> int: ...


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """One request in the queue, with the future that its caller awaits.

    `waits_since` is when its present wait for the device began, at its arrival or at the end of its last batch; None
    while a batch computes rows of it. `start` is its virtual time in the queue. `turn` is how many rows it gets in a
    turn, 1 + log2(rows), and its weight when the time of the device is divided: a large request gets more than a
    request of one row, and much less than as many of them would.
    """

    kind: Kind
    rows: Any
    context: RequestContext
    future: "asyncio.Future[list[Any]]"
    arrived: float = field(default_factory=time.monotonic)
    taken: int = 0
    answered: int = 0
    failed: bool = False
    answers: list[Any] = field(default_factory=list)
    waits_since: float | None = None
    start: float = 0.0
    turn: int = 1

    def __post_init__(self) -> None:
        self.waits_since = self.arrived
        self.turn = max(1, len(self.rows).bit_length())

    @property
    def waiting(self) -> int:
        """Rows that no batch has taken yet."""
        return len(self.rows) - self.taken

    @property
    def cost(self) -> int:
        """What the waiting rows will cost, in images."""
        return self.waiting * self.kind.weight

    @property
    def dead(self) -> bool:
        """Whether nobody waits for the answer any more, or none will come."""
        return self.failed or self.future.done() or time.monotonic() >= self.context.deadline

    @property
    def complete(self) -> bool:
        """Whether every row has its answer."""
        return self.answered == len(self.rows)

    def take(self, count: int) -> Any:
        """The next rows, for a batch that is about to run."""
        part = self.rows[self.taken : self.taken + count]
        self.taken += count
        return part

    def stop_waiting(self, now: float) -> None:
        """Count the wait that ends now as time in the queue."""
        if self.waits_since is not None:
            self.context.record_stage("queue", self.waits_since, now)
            self.waits_since = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Parts of entries that go to the device together, `rows` in all.

    `dispatch` says why now: free, full or window. `alone` is one row that leaves nobody waiting.
    """

    kind: Kind
    entries: list[QueuedRequest]
    parts: list[Any]
    rows: int
    dispatch: str
    alone: bool = False

    def living(self) -> "Batch":
        """The batch without the parts that nobody waits for any more."""
        pairs = [(entry, part) for entry, part in zip(self.entries, self.parts, strict=True) if not entry.dead]
        return self._of(pairs)

    def halves(self) -> tuple["Batch", "Batch"]:
        """The earlier and the later rows; a part that lies across the middle is cut."""
        earlier: list[tuple[QueuedRequest, Any]] = []
        later: list[tuple[QueuedRequest, Any]] = []
        left = self.rows // 2
        for entry, part in zip(self.entries, self.parts, strict=True):
            cut = min(left, len(part))
            earlier += [(entry, part[:cut])] if cut else []
            later += [(entry, part[cut:])] if cut < len(part) else []
            left -= cut
        return self._of(earlier), self._of(later)

    def cut(self, answers: Any, rows: int) -> list[Any]:
        """The answers to each part; raises `ValueError` or `TypeError` for what is not a stack of so many rows."""
        if len(answers) != rows:
            msg = f"expected answers to {rows} rows from the device, got {len(answers)}"
            raise ValueError(msg)
        cut, start = [], 0
        for part in self.parts:
            cut.append(answers[start : start + len(part)])
            start += len(part)
        return cut

    def hand_out(self, answers: Sequence[Any]) -> None:
        """Give each entry the answers to its part, as `cut` returns them."""
        for entry, part, answer in zip(self.entries, self.parts, answers, strict=True):
            entry.answers.append(answer)
            entry.answered += len(part)

    def _of(self, pairs: list[tuple[QueuedRequest, Any]]) -> "Batch":
        parts = [part for _, part in pairs]
        return Batch(self.kind, [entry for entry, _ in pairs], parts, sum(map(len, parts)), self.dispatch)
