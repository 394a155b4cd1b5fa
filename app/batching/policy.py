"""How many rows go to the device together, and from which thread: what the warm-up of one kind of work has shown."""

import math
import sys
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

QUICK = 0.005
"""Seconds of a batch up to which the event loop runs it: two threads of Python get in each other's way for longer."""

SHORTEST = 1e-9
"""Seconds that a row is taken to need at least: a clock that advances in steps may have measured 0."""

WORTH_A_BATCH = 4
"""Rows that must be quick for the event loop to run them: below, a batch on the device's thread is the better use."""


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """A batch has at most `most` rows; the event loop runs it itself where that is `at_once` done.

    `first[n]` is how many rows of n should go first, so that all n are done soonest.
    """

    most: int = sys.maxsize
    at_once: bool = False
    first: Sequence[int] = ()

    @classmethod
    def of_shapes(cls, seconds: Mapping[int, float], quick: float = 0.0) -> Self:
        """For batches that are padded to one of the shapes that took so many `seconds`."""
        rows = max((rows for rows, took in seconds.items() if took <= quick), default=0)
        at_once = rows >= WORTH_A_BATCH
        return cls(rows if at_once else max(seconds), at_once, _first(seconds))

    @classmethod
    def of_rows(cls, seconds: float, quick: float = 0.0, longest: float = math.inf) -> Self:
        """For rows that are computed one after another, in so many `seconds` each, and no batch for over `longest`.

        They gain nothing from company: batches of half the time let those who are refused meanwhile hear of it sooner.
        """
        seconds = max(seconds, SHORTEST)
        rows = int(quick / 2 / seconds)
        if rows >= WORTH_A_BATCH:
            return cls(rows, at_once=True)
        return cls() if longest == math.inf else cls(max(1, int(longest / seconds)))

    def rows(self, waiting: int) -> int:
        """How many of so many waiting rows the next batch should have."""
        rows = min(waiting, self.most)
        return self.first[rows] if rows < len(self.first) else rows


def _first(seconds: Mapping[int, float]) -> list[int]:
    """For each number of rows the batch to begin with: one that holds them all, or a full one before the rest."""
    shapes = sorted(seconds)
    first, total = [0], [0.0]
    for rows in range(1, shapes[-1] + 1):
        fitting = bisect_left(shapes, rows)
        spent = {min(shape, rows): seconds[shape] + total[max(0, rows - shape)] for shape in shapes[: fitting + 1]}
        first.append(min(reversed(spent), key=spent.__getitem__))
        total.append(spent[first[-1]])
    return first
