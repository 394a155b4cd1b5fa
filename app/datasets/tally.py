"""Counting of what a command has done, for its progress bar and its summary."""

import time
from collections.abc import Callable, Iterable
from itertools import islice

from app.datasets.options import Progress, ProgressCallback

MAX_ERRORS = 10
"""Images that could not be read of which a summary has the reason."""


class Tally:
    """Counts images that are done, and reports it after each batch.

    `waited` returns the share of the time in which the device computed nothing. `max_errors` reasons are kept.
    """

    def __init__(
        self,
        total: int,
        waited: Callable[[], float] = lambda: 0.0,
        progress: ProgressCallback | None = None,
        max_errors: int = MAX_ERRORS,
    ) -> None:
        self._total, self._waited, self._report = total, waited, progress
        self._start = time.monotonic()
        self._max_errors = max_errors
        self.done = self.unreadable = 0
        self.errors: list[str] = []

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def add(self, images: int, errors: Iterable[tuple[str, str]] = ()) -> None:
        """Count images, and those of them that could not be read, each by its id and the reason."""
        found = list(errors)
        self.done += images
        self.unreadable += len(found)
        self.errors += [f"{name}: {reason}" for name, reason in islice(found, self._max_errors - len(self.errors))]
        if self._report:
            self._report(Progress(self.done, self._total, self.unreadable, self.seconds, self._waited()))
