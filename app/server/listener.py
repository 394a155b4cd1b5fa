"""A port, and who comes to it: each connection is given to whoever serves it, all who wait in one turn of the loop."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress

log = logging.getLogger(__name__)

BACKLOG = 2048
"""Connections that may wait to be taken in."""

AT_ONCE = 64
"""Connections taken in by a turn of the event loop, so that those inside have theirs."""

PAUSE = 0.5
"""Seconds to wait where the process may open no more files; those who come wait as well."""


class Listener:
    """A port that is held from the start, and listened on once it is open.

    `port` is its number, a free one where 0 was asked for. Raises `OSError` where somebody else has it.
    """

    def __init__(self, host: str, port: int) -> None:
        self.port = port
        self._host = host
        self._doors: list[socket.socket] = []
        self._watched: set[socket.socket] = set()
        self._listening = False
        try:
            for family, address in _addresses(host, port):
                self._doors.append(_bound(family, (address, self.port)))
                self.port = self._doors[-1].getsockname()[1]
        except OSError:
            self.close()
            raise

    @property
    def address(self) -> str:
        """The URL that a person on this machine can open."""
        return url({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host), self.port)  # noqa: S104

    def open(self, give: Callable[[socket.socket], None]) -> None:
        """Listen, unless it does already, and give each connection away; needs a running event loop."""
        if self._listening:
            return
        self._give, self._listening = give, True
        for door in self._doors:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.listen(BACKLOG)
        self.go_on()
        log.info("listening on %s", url(self._host, self.port))

    def hold(self) -> None:
        """Let those who come wait."""
        for door in self._watched:
            asyncio.get_running_loop().remove_reader(door)
        self._watched.clear()

    def go_on(self) -> None:
        """Take in those who wait, and those who come."""
        for door in self._doors if self._listening else ():
            if door not in self._watched:
                self._watched.add(door)
                asyncio.get_running_loop().add_reader(door, self._take_in, door)

    def close(self) -> None:
        """Listen no more; who has come is taken in."""
        doors, self._doors = self._doors, []
        if self._listening:
            self.hold()
            for door in doors:
                with suppress(OSError):
                    for connection in _waiting(door):
                        self._give(connection)
        for door in doors:
            door.close()

    def _take_in(self, door: socket.socket) -> None:
        try:
            for _, connection in zip(range(AT_ONCE), _waiting(door), strict=False):
                self._give(connection)
                if door not in self._watched:
                    break
        except OSError as failure:  # the process may open no more files, or the network has a failure
            log.warning("no connection can be taken in for %g s: %s", PAUSE, failure.strerror)
            self.hold()
            asyncio.get_running_loop().call_later(PAUSE, self.go_on)


def url(host: str, port: int) -> str:
    """Where callers find it."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _waiting(door: socket.socket) -> Iterator[socket.socket]:
    while True:
        try:
            yield door.accept()[0]
        except BlockingIOError:
            return
        except ConnectionAbortedError:  # he has left again
            continue


def _addresses(host: str, port: int) -> list[tuple[int, str]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise OSError(f"host: expected an address of this machine or a name for one, got {host!r}") from None
    return list(dict.fromkeys((family, str(address[0])) for family, *_, address in found))


def _bound(family: int, address: tuple[str, int]) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # until it listens: nobody binds beside it
    except OSError as error:
        bound.close()
        raise OSError(error.errno, f"{address[0]} port {address[1]}: {error.strerror}") from None
    return bound
