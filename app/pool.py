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
    """Up to `limit` open connections; `refused` counts, by status, what is refused before it is a request."""

    def __init__(self, limit: int | None = None, refused: Callable[[int], None] = lambda _: None) -> None:
        self.refused = refused
        self._limit = limit
        self._idle: OrderedDict[Evictable, None] = OrderedDict()

    def add(self, connection: Evictable, opened: int) -> None:
        """Count a new connection as idle; of `opened` above the limit, close the one that is idle for longest."""
        if self._limit is not None and opened > self._limit and self._idle:
            self._idle.popitem(last=False)[0].evict()
        self._idle[connection] = None

    def busy(self, connection: Evictable) -> None:
        """A request of the connection has begun."""
        self._idle.pop(connection, None)

    def idle(self, connection: Evictable) -> None:
        """The connection waits for its next request."""
        self._idle[connection] = None
