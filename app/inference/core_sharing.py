"""Which of several workers compute just now: who does so alone may take all cores, and nobody else waits for them."""

from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager
from multiprocessing import get_context


def places(workers: int) -> MutableSequence[int]:
    """A place for each worker, in memory that processes share when they are started with it; 1 while he computes."""
    shared: MutableSequence[int] = get_context("spawn").RawArray("b", workers)
    return shared


class CoreUsage:
    """The others, as the worker in one of the `places` sees them; by itself a process has none."""

    def __init__(self, places: MutableSequence[int] | None = None, own: int = 0) -> None:
        self._places = [0] if places is None else places
        self._own = own
        self._places[own] = 0  # who had the place before may have died at work

    @property
    def idle(self) -> bool:
        """Whether no other computes."""
        return not any(busy for place, busy in enumerate(self._places) if place != self._own)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """The others see it meanwhile."""
        self._places[self._own] = 1
        try:
            yield
        finally:
            self._places[self._own] = 0
