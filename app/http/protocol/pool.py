"""The open connections of a server: how many there may be, and which of them wait for a request.

Where more than the limit are open, the connection that has waited longest is closed, so that a new client is served.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol


class Evictable(Protocol):
    """A connection that can be closed between two requests."""

    def evict(self) -> None:
        """Close the connection."""


class ConnectionPool:
    """Up to `limit` open connections; `refused` counts, by status, what is refused before it is a request.

    `idle` has those that wait for a request, the one that has waited longest first.
    """

    def __init__(self, limit: int | None = None, refused: Callable[[int], None] = lambda _: None) -> None:
        self.idle: OrderedDict[Evictable, None] = OrderedDict()
        self.refused = refused
        self._limit = limit

    def add(self, connection: Evictable, opened: int) -> None:
        """Count a new connection as idle; of `opened` above the limit, close the one that is idle for longest."""
        if self._limit is not None and opened > self._limit and self.idle:
            self.idle.popitem(last=False)[0].evict()
        self.idle[connection] = None
