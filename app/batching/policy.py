"""Batch policy: how many rows form a batch, and on which thread it runs, derived from the timings of the warm-up."""

import math
import sys
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

CPU_INLINE_SECONDS = 0.005
"""Longest batch that the event loop runs itself on a CPU. For longer ones two Python threads cost less than a stall."""

MIN_SECONDS_PER_ROW = 1e-9
"""Least time of one row, since a clock that advances in steps can measure 0."""

MIN_INLINE_ROWS = 4
"""Least number of rows that an inline batch must be able to hold. Below that the device thread is more efficient."""


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """The size of batches and the place where they run.

    A batch has at most `max_rows` rows. `inline` batches run on the event loop if no backlog exists. `split[n]` is the
    size of the first batch that minimizes the time until n waiting rows are done.
    """

    max_rows: int = sys.maxsize
    inline: bool = False
    split: tuple[int, ...] = ()

    @classmethod
    def from_batch_timings(cls, seconds: Mapping[int, float], inline_limit: float = 0.0) -> Self:
        """Derive the policy for batches that are padded to one of the measured sizes.

        `seconds` maps each size to the duration of a batch, and batches of up to `inline_limit` seconds run inline.
        """
        rows = max((rows for rows, duration in seconds.items() if duration <= inline_limit), default=0)
        inline = rows >= MIN_INLINE_ROWS
        return cls(rows if inline else max(seconds), inline, _optimal_splits(seconds))

    @classmethod
    def from_row_timing(cls, seconds: float, inline_limit: float = 0.0, longest: float = math.inf) -> Self:
        """Derive the policy for rows that are computed one after another, in `seconds` each.

        No batch takes more than `longest` seconds. An inline batch takes half of `inline_limit`: these rows gain
        nothing from larger batches, and between shorter ones the event loop answers other requests sooner.
        """
        seconds = max(seconds, MIN_SECONDS_PER_ROW)
        rows = int(inline_limit / 2 / seconds)
        if rows >= MIN_INLINE_ROWS:
            return cls(rows, inline=True)
        return cls() if longest == math.inf else cls(max(1, int(longest / seconds)))

    def rows(self, waiting: int) -> int:
        """Return how many of the waiting rows the next batch should have."""
        rows = min(waiting, self.max_rows)
        return self.split[rows] if rows < len(self.split) else rows


def _optimal_splits(seconds: Mapping[int, float]) -> tuple[int, ...]:
    """For each number of rows, find the size of the first batch that minimizes the total time.

    Dynamic program: total[n] = min over sizes s of seconds[s] + total[n - s]. A batch of size s may hold fewer than s
    rows, so the smallest size that holds all n is a candidate as well. The larger batch wins a tie.
    """
    sizes = sorted(seconds)
    first, total = [0], [0.0]
    for rows in range(1, sizes[-1] + 1):
        candidates = sizes[: bisect_left(sizes, rows) + 1]
        spent = {min(size, rows): seconds[size] + total[max(0, rows - size)] for size in candidates}
        first.append(min(reversed(spent), key=spent.__getitem__))
        total.append(spent[first[-1]])
    return tuple(first)
