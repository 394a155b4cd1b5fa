"""Open connections of a server: their limit, and the idle ones that are closed to make room.

If more connections than the limit are open, the connection that has been idle for longest is closed.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol


class Evictable(Protocol):
    """A connection that can be closed between two requests."""

    def evict(self) -> None:
        """Close the connection."""


class ConnectionPool:
    """Registry of open connections.

    `idle` are those without a request, the one that has been idle for longest first. `on_closed` is called for each
    connection that has been closed.
    """

    def __init__(self, limit: int | None = None, on_closed: Callable[[], None] | None = None) -> None:
        self.connections: set[Evictable] = set()
        self.idle: OrderedDict[Evictable, None] = OrderedDict()
        self._limit = limit
        self._on_closed = on_closed

    def add(self, connection: Evictable) -> None:
        """Register a new connection as idle; over the limit, evict the one that has been idle for longest."""
        self.connections.add(connection)
        if self._limit is not None and len(self.connections) > self._limit and self.idle:
            evicted, _ = self.idle.popitem(last=False)
            self.connections.discard(evicted)
            evicted.evict()
        self.idle[connection] = None

    def remove(self, connection: Evictable) -> None:
        """Forget a connection that has been closed."""
        self.connections.discard(connection)
        self.idle.pop(connection, None)
        if self._on_closed is not None:
            self._on_closed()
