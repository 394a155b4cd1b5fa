"""The queue before the device: counted in rows, fair between requests and between kinds of work; knows no thread.

In each batch the waiting requests of one kind get equal shares, and the kinds take turns, so that a request of
thousands of images makes nobody else wait for all of it.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from app.batches import Batch, Entry, Kind
from app.pace import Pace


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
