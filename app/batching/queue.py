"""The queue before the device: counted in images, fair in time of the device; knows no thread.

Requests whose rows can share a batch wait in one lane. The time of the device is divided between requests by weighted
fair queueing (Demers, Keshav and Shenker, 1989). Each request has a virtual time: a batch advances it by the request's
part of the batch's seconds, over the weight of the request. The clock of the queue advances by the seconds of each
batch over the weight of all that wait, and a new request starts at that clock: it has no credit for the time before,
and however many requests arrive, one that waits gets its share. The next batch is of the lane whose first request
would end its turn at the least virtual time; the rest of the batch is filled from the same lane.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any

from app.batching.policy import BatchPolicy
from app.batching.requests import Batch, Kind, QueuedRequest

TICK = 1e-6
"""Seconds that a batch is charged at least: while the system's clock stands still, lanes take turns."""

LONGEST = 0.05
"""Seconds of one row that count at most when the next lane is chosen: rows of seconds would miss their deadlines."""

NEWEST = 0.1
"""Weight of the newest batch in the average time of an image."""

_start = attrgetter("start")


class Lane:
    """The waiting entries of one kind: those that wait for their first batch, and those that were served in part.

    Each of the two is in order of arrival or of the last turn; `rows` is how many rows wait in all.
    """

    __slots__ = ("begun", "fresh", "rows")

    def __init__(self) -> None:
        self.fresh: OrderedDict[QueuedRequest, None] = (
            OrderedDict()
        )  # unlike a deque it removes any entry in constant time
        self.begun: OrderedDict[QueuedRequest, None] = OrderedDict()
        self.rows = 0

    def __bool__(self) -> bool:
        return bool(self.fresh or self.begun)

    def __iter__(self) -> Iterator[QueuedRequest]:
        yield from self.fresh
        yield from self.begun

    def __contains__(self, entry: QueuedRequest) -> bool:
        return entry in self.fresh or entry in self.begun

    def heads(self) -> list[QueuedRequest]:
        """The first of those that wait for their first batch, and the first of the others."""
        return [next(iter(part)) for part in (self.fresh, self.begun) if part]

    def head(self) -> QueuedRequest:
        """The entry whose turn is next."""
        return min(self.heads(), key=_start) if self.begun else next(iter(self.fresh))

    def pop(self) -> QueuedRequest:
        """Take out the entry whose turn is next."""
        if self.begun:
            entry = self.head()
            self.remove(entry)
        else:
            entry, _ = self.fresh.popitem(last=False)
            self.rows -= entry.waiting
        return entry

    def add(self, entry: QueuedRequest, *, first: bool = False) -> None:
        """Put an entry behind the others like it, or before them."""
        part = self.begun if entry.taken else self.fresh
        part[entry] = None
        if first:
            part.move_to_end(entry, last=False)
        self.rows += entry.waiting

    def remove(self, entry: QueuedRequest) -> None:
        """Take out an entry that is there."""
        del (self.begun if entry.taken else self.fresh)[entry]
        self.rows -= entry.waiting


class FairQueue:
    """Entries in order of arrival, a lane for each kind of work; `depth` is what waits, in images.

    `limits` holds the operations whose batches must stay below `max_batch_size`, in images; `pace` tells how many rows
    of a kind should go together. After each batch `spend` charges its requests for the time that it took.
    """

    def __init__(
        self, max_batch_size: int, max_delay: float = 0.0, pace: Callable[[Any], BatchPolicy] = lambda _: BatchPolicy()
    ) -> None:
        self._max_batch_size = max_batch_size
        self._max_delay = max_delay
        self._pace = pace
        self._lanes: dict[Kind, Lane] = {}
        self._clock = 0.0
        self._weight = 0  # of all that wait
        self._served: tuple[Batch, list[tuple[QueuedRequest, int]], int] | None = None
        self._seconds: dict[str, float] = {}  # of one image, for each operation
        self.limits: dict[str, int] = {}
        self.depth = 0

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def limit(self, operation: str) -> int:
        """The most images that a batch of that operation may have."""
        return self.limits.get(operation, self._max_batch_size)

    def add(self, entry: QueuedRequest) -> None:
        """Queue a request behind those of its kind."""
        lane = self._lanes.get(entry.kind)
        if lane is None:
            lane = self._lanes[entry.kind] = Lane()
        entry.start = self._clock
        lane.add(entry)
        self._weight += entry.turn
        self.depth += entry.cost

    def remove(self, entry: QueuedRequest) -> None:
        """Take out a request whose caller has left; nothing happens if it is not waiting."""
        lane = self._lanes.get(entry.kind)
        if lane is None or entry not in lane:
            return
        lane.remove(entry)
        self._weight -= entry.turn
        self.depth -= entry.cost
        if not lane:
            del self._lanes[entry.kind]

    def patience(self) -> float:
        """Seconds that the next batch may still wait for company; 0 or less when it must go."""
        return min(map(self._patience, self._lanes)) if self._max_delay else 0.0

    def take(self) -> Batch:
        """The next batch; without entries where all are dead."""
        kind = self._next()
        pace, lane = self._pace(kind), self._lanes[kind]
        room, weight = self._room(kind, pace), self._weight
        dispatch = "full" if lane.rows >= room else "window" if self._max_delay else "free"
        entries = self._living(lane, room)
        waiting = [entry.waiting for entry in entries]
        rows = pace.rows(min(room, sum(waiting)))
        given = turns(entries, waiting, rows)
        for entry in reversed(entries[len(given) :]):
            lane.add(entry, first=True)
            self._weight += entry.turn
        del entries[len(given) :]
        parts = [entry.take(count) for entry, count in zip(entries, given, strict=True)]
        self.depth -= rows * kind.weight
        del self._lanes[kind]
        divided = [(entry, count) for entry, count, most in zip(entries, given, waiting, strict=False) if count < most]
        for entry, _ in divided:
            lane.add(entry)
            self._weight += entry.turn
        if lane:
            self._lanes[kind] = lane  # behind its equals
        batch = Batch(kind, entries, parts, rows, dispatch, alone=rows == 1 and not self._lanes)
        self._served = batch, divided, weight
        return batch

    def spend(self, seconds: float) -> None:
        """Charge the requests of the batch that was taken last for the time that the batch took of the device."""
        if self._served is None:
            return
        (batch, divided, weight), self._served = self._served, None
        seconds = max(seconds, TICK)
        for entry, count in divided:  # the others need the device no more
            entry.start += seconds * (count / batch.rows) / entry.turn
        self._clock += seconds / weight
        if images := batch.rows * batch.kind.weight:
            known = self._seconds.setdefault(batch.kind.operation, seconds / images)
            measured = min(seconds / images, 2 * known)  # one batch that was held up says little about the next
            self._seconds[batch.kind.operation] = known + (measured - known) * NEWEST

    def clear(self) -> list[QueuedRequest]:
        """Empty the queue; returns what was waiting."""
        entries = [entry for lane in self._lanes.values() for entry in lane]
        self._lanes.clear()
        self.depth = self._weight = 0
        return entries

    def _next(self) -> Kind:
        """The kind of the next batch, one of those that must go; among equals the one that has waited longest."""
        if len(self._lanes) == 1:
            return next(iter(self._lanes))
        due = [kind for kind in self._lanes if self._patience(kind) <= 0] if self._max_delay else self._lanes
        return min(due or self._lanes, key=self._end)

    def _end(self, kind: Kind) -> float:
        """The virtual time at which the next turn of a kind would end."""
        row = self._seconds.get(kind.operation, 0.0) * kind.weight
        return self._lanes[kind].head().start + min(row, LONGEST)

    def _patience(self, kind: Kind) -> float:
        lane = self._lanes[kind]
        if lane.rows >= self._room(kind, self._pace(kind)):
            return 0.0
        return min(entry.arrived for entry in lane.heads()) + self._max_delay - time.monotonic()

    def _room(self, kind: Kind, pace: BatchPolicy) -> int:
        return min(max(1, self.limit(kind.operation) // kind.weight), pace.most)

    def _living(self, lane: Lane, most: int) -> list[QueuedRequest]:
        """Take up to so many entries out of a lane; dead entries are dropped."""
        entries: list[QueuedRequest] = []
        while lane and len(entries) < most:
            entry = lane.pop()
            self._weight -= entry.turn
            if entry.dead:
                self.depth -= entry.cost
            else:
                entries.append(entry)
        return entries


def turns(entries: Sequence[QueuedRequest], waiting: Sequence[int], room: int) -> Sequence[int]:
    """How many of `room` rows each entry gets, for as many of the first entries as get any.

    First each has its turn; of the rows that are left then, all get equal shares.
    """
    if room >= sum(waiting):
        return waiting
    given: list[int] = []
    for entry, most in zip(entries, waiting, strict=True):
        if room <= 0:
            return given
        given.append(min(most, entry.turn, room))
        room -= given[-1]
    more = shares([most - count for most, count in zip(waiting, given, strict=True)], room)
    return [count + extra for count, extra in zip(given, more, strict=True)]


def shares(waiting: Sequence[int], room: int) -> list[int]:
    """Equal shares of `room` rows for requests with so many waiting; what the small ones leave goes to the larger."""
    given = [0] * len(waiting)
    smallest_first = sorted(range(len(waiting)), key=waiting.__getitem__)
    for place, index in enumerate(smallest_first):
        given[index] = min(waiting[index], room // (len(waiting) - place))
        room -= given[index]
    return given
