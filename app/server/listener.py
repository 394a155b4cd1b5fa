"""Listening socket that accepts connections in bulk and hands each one to a callback."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice

from model.errors import UserError

log = logging.getLogger(__name__)

BACKLOG = 2048
"""Connections that the system queues before they are accepted."""

ACCEPTS_PER_TICK = 64
"""Connections accepted per event-loop iteration, so that open connections are served in between."""

RETRY_SECONDS = 0.5
"""Pause after a failed accept, such as for lack of file descriptors. New connections wait in the backlog meanwhile."""


class Listener:
    """Listening sockets for all addresses of a host, bound at once and listening after `start`.

    `port` is the bound port, also where 0 was given. Raises `UserError` for an address that is in use.
    """

    def __init__(self, host: str, port: int) -> None:
        self.port = port
        self._host = host
        self._sockets: list[socket.socket] = []
        self._accepting: set[socket.socket] = set()
        self._on_connection: Callable[[socket.socket], None] = socket.socket.close
        self._listening = False
        try:
            for family, address in _addresses(host, port):
                self._sockets.append(_bind(family, (address, self.port)))
                self.port = self._sockets[-1].getsockname()[1]
        except UserError:
            self.close()
            raise

    @property
    def address(self) -> str:
        """The URL under which a user on this machine reaches the service."""
        return url({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host), self.port)  # noqa: S104

    def start(self, on_connection: Callable[[socket.socket], None]) -> None:
        """Listen, and pass each connection to the callback. Needs a running event loop; a second call does nothing."""
        if self._listening:
            return
        self._on_connection, self._listening = on_connection, True
        for sock in self._sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.listen(BACKLOG)
        self.resume()
        log.info("listening on %s", url(self._host, self.port))

    def pause(self) -> None:
        """Stop accepting. New connections wait in the backlog."""
        for sock in self._accepting:
            asyncio.get_running_loop().remove_reader(sock)
        self._accepting.clear()

    def resume(self) -> None:
        """Accept the connections in the backlog and the ones to come."""
        for sock in self._sockets if self._listening else ():
            if sock not in self._accepting:
                self._accepting.add(sock)
                asyncio.get_running_loop().add_reader(sock, self._accept, sock)

    def close(self) -> None:
        """Stop listening, after the connections in the backlog have been passed to the callback."""
        sockets, self._sockets = self._sockets, []
        if self._listening:
            self.pause()
            for sock in sockets:
                with suppress(OSError):
                    for connection in _accept_all(sock):
                        self._on_connection(connection)
        for sock in sockets:
            sock.close()

    def _accept(self, sock: socket.socket) -> None:
        try:
            for connection in islice(_accept_all(sock), ACCEPTS_PER_TICK):
                self._on_connection(connection)
                if sock not in self._accepting:
                    break
        except OSError as failure:  # no file descriptor is free, or the network fails
            log_accept_failure(log, failure)
            self.pause()
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self.resume)


def log_accept_failure(logger: logging.Logger, failure: OSError) -> None:
    """Log that accepting a connection failed, with the reason of the system."""
    logger.warning("accept failed (%s), retrying in %g s", failure.strerror, RETRY_SECONDS)


def url(host: str, port: int) -> str:
    """Return the URL of a host and port, with an IPv6 address in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _accept_all(sock: socket.socket) -> Iterator[socket.socket]:
    """Accept connections until the backlog is empty."""
    while True:
        try:
            yield sock.accept()[0]
        except BlockingIOError:
            return
        except ConnectionAbortedError:  # the client has closed the connection
            continue


def _addresses(host: str, port: int) -> list[tuple[int, str]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise UserError(f"host: expected an address of this machine or a name for one, got {host!r}") from None
    return list(dict.fromkeys((family, str(address[0])) for family, *_, address in found))


def _bind(family: int, address: tuple[str, int]) -> socket.socket:
    """Return a bound socket. Without SO_REUSEADDR until it listens, so that no other socket can bind the same port."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError as error:
        bound.close()
        raise UserError(f"{address[0]} port {address[1]}: {error.strerror}") from None
    return bound
