"""The queue before the device: counted in rows, fair between requests and between kinds of work; knows no thread.

In each batch the waiting requests of one kind get equal shares, and the kinds take turns, so that a request of
thousands of images makes nobody else wait for all of it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from app.calls import Call
from app.pace import Pace


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
class Entry:
    """One request in the queue, with the future that its caller awaits."""

    kind: Kind
    rows: Any
    call: Call
    future: "asyncio.Future[list[Any]]"
    arrived: float = field(default_factory=time.monotonic)
    taken: int = 0
    answered: int = 0
    failed: bool = False
    answers: list[Any] = field(default_factory=list)

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
        return self.failed or self.future.done() or time.monotonic() >= self.call.deadline

    @property
    def complete(self) -> bool:
        """Whether every row has its answer."""
        return self.answered == len(self.rows)

    def take(self, count: int) -> Any:
        """The next rows, for a batch that is about to run."""
        if not self.taken:
            self.call.spend("queue", self.arrived, time.monotonic())
        part = self.rows[self.taken : self.taken + count]
        self.taken += count
        return part


@dataclass(frozen=True, slots=True)
class Batch:
    """Parts of entries that go to the device together, `rows` in all.

    `dispatch` says why now: free, full or window. `alone` is one row that leaves nobody waiting.
    """

    kind: Kind
    entries: list[Entry]
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
        earlier: list[tuple[Entry, Any]] = []
        later: list[tuple[Entry, Any]] = []
        left = self.rows // 2
        for entry, part in zip(self.entries, self.parts, strict=True):
            cut = min(left, len(part))
            earlier += [(entry, part[:cut])] if cut else []
            later += [(entry, part[cut:])] if cut < len(part) else []
            left -= cut
        return self._of(earlier), self._of(later)

    def hand_out(self, answers: Any) -> None:
        """Give each entry the answers to its part."""
        start = 0
        for entry, part in zip(self.entries, self.parts, strict=True):
            entry.answers.append(answers[start : start + len(part)])
            entry.answered += len(part)
            start += len(part)

    def _of(self, pairs: list[tuple[Entry, Any]]) -> "Batch":
        parts = [part for _, part in pairs]
        return Batch(self.kind, [entry for entry, _ in pairs], parts, sum(map(len, parts)), self.dispatch)


class FairQueue:
    """Entries in order of arrival, a lane for each kind of work; `depth` is what waits, in images.

    `limits` holds the operations whose batches must stay below `max_batch_size`, in images; `pace` tells how many rows
    of a kind should go together.
    """

    def __init__(
        self, max_batch_size: int, max_delay: float = 0.0, pace: Callable[[Any], Pace] = lambda _: Pace()
    ) -> None:
        self._max_batch_size = max_batch_size
        self._max_delay = max_delay
        self._pace = pace
        self._lanes: dict[Kind, deque[Entry]] = {}
        self.limits: dict[str, int] = {}
        self.depth = 0

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def limit(self, operation: str) -> int:
        """The most images that a batch of that operation may have."""
        return self.limits.get(operation, self._max_batch_size)

    def add(self, entry: Entry) -> None:
        """Queue a request behind those of its kind."""
        self._lanes.setdefault(entry.kind, deque()).append(entry)
        self.depth += entry.cost

    def remove(self, entry: Entry) -> None:
        """Take out a request whose caller has left; nothing happens if it is not waiting."""
        lane = self._lanes.get(entry.kind)
        if lane is None or entry not in lane:
            return
        lane.remove(entry)
        self.depth -= entry.cost
        if not lane:
            del self._lanes[entry.kind]

    def patience(self) -> float:
        """Seconds that the next batch may still wait for company; 0 or less when it must go."""
        return min(map(self._patience, self._lanes))

    def take(self) -> Batch:
        """The next batch, of the kind whose turn it is among those that must go; without entries where all are dead."""
        kind = next((kind for kind in self._lanes if self._patience(kind) <= 0), next(iter(self._lanes)))
        lane = self._lanes.pop(kind)
        dispatch = "full" if self._fills(kind, lane) else "window" if self._max_delay else "free"
        room = self._room(kind)
        entries = self._living(lane, room)
        rows = self._pace(kind).rows(min(room, sum(entry.waiting for entry in entries)))
        lane.extendleft(reversed(entries[rows:]))
        del entries[rows:]
        given = shares([entry.waiting for entry in entries], rows)
        parts = [entry.take(count) for entry, count in zip(entries, given, strict=True)]
        self.depth -= sum(given) * kind.weight
        lane.extend(entry for entry in entries if entry.waiting)
        if lane:
            self._lanes[kind] = lane
        alone = sum(given) == 1 and not self._lanes
        return Batch(kind, entries, parts, sum(given), dispatch, alone)

    def clear(self) -> list[Entry]:
        """Empty the queue; returns what was waiting."""
        entries = [entry for lane in self._lanes.values() for entry in lane]
        self._lanes.clear()
        self.depth = 0
        return entries

    def _patience(self, kind: Kind) -> float:
        lane = self._lanes[kind]
        return 0.0 if self._fills(kind, lane) else lane[0].arrived + self._max_delay - time.monotonic()

    def _room(self, kind: Kind) -> int:
        return min(max(1, self.limit(kind.operation) // kind.weight), self._pace(kind).most)

    def _fills(self, kind: Kind, lane: deque[Entry]) -> bool:
        rows, full = 0, self._room(kind)
        for entry in lane:
            rows += entry.waiting
            if rows >= full:
                return True
        return False

    def _living(self, lane: deque[Entry], most: int) -> list[Entry]:
        entries: list[Entry] = []
        while lane and len(entries) < most:
            entry = lane.popleft()
            if entry.dead:
                self.depth -= entry.cost
            else:
                entries.append(entry)
        return entries


def shares(waiting: Sequence[int], room: int) -> list[int]:
    """Equal shares of `room` rows for requests with so many waiting; what the small ones leave goes to the larger."""
    given = [0] * len(waiting)
    smallest_first = sorted(range(len(waiting)), key=waiting.__getitem__)
    for place, index in enumerate(smallest_first):
        given[index] = min(waiting[index], room // (len(waiting) - place))
        room -= given[index]
    return given
