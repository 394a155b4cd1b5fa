"""Open connections of a server: their limit, and the idle ones that are closed to make room.

If more connections than the limit are open, the connection that has been idle for longest is closed. Connections with
unsent bytes of a response are closed last.
"""

from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Protocol

MAX_SEARCHED = 64
"""Idle connections among which one without unsent bytes is looked for."""


class Connection(Protocol):
    """A connection that can be closed between two requests."""

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered, or a part of a response has not been sent."""

    def evict(self) -> None:
        """Close the connection."""

    def abort(self) -> None:
        """Close the connection at once; the client loses what it has not read."""


class ConnectionPool:
    """Registry of open connections.

    `idle` are those without a request, the one that has been idle for longest first. `handled` is the number of
    connections that were registered or could not be, since the start. `on_closed` is called for each connection that
    has been closed.
    """

    def __init__(self, limit: int | None = None, on_closed: Callable[[], None] | None = None) -> None:
        self.connections: set[Connection] = set()
        self.idle: OrderedDict[Connection, None] = OrderedDict()
        self.handled = 0
        self._limit = limit
        self._on_closed = on_closed

    def add(self, connection: Connection) -> None:
        """Register a new connection as idle; over the limit, evict the one that has been idle for longest."""
        self.handled += 1
        self.connections.add(connection)
        if self._limit is not None and len(self.connections) > self._limit and self.idle:
            evicted = self._longest_idle()
            del self.idle[evicted]
            self.connections.discard(evicted)
            evicted.evict()
        self.idle[connection] = None

    def remove(self, connection: Connection) -> None:
        """Forget a connection that has been closed."""
        self.connections.discard(connection)
        self.idle.pop(connection, None)
        if self._on_closed is not None:
            self._on_closed()

    def count_failed(self) -> None:
        """Count a connection that was closed before it could be registered."""
        self.handled += 1

    def _longest_idle(self) -> Connection:
        """Return the connection that has been idle for longest, if possible one that has sent its last response."""
        longest = islice(self.idle, MAX_SEARCHED)
        return next((connection for connection in longest if not connection.is_busy), next(iter(self.idle)))
