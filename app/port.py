"""A port to listen on, alone or side by side: who reserves it keeps strangers out, those whom it starts share it."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

ACCEPTED = 16
"""New connections that a turn of the event loop takes; with one alone, the last of 64 waits for 64 batches."""


@contextmanager
def reserved(host: str, port: int) -> Iterator[int]:
    """The port, held on each address of the host without listening; port 0 takes a free one.

    Raises `OSError` where somebody else has it, also another who shares his.
    """
    with ExitStack() as held:
        for family, address in _addresses(host, port):
            one = held.enter_context(_bound(family, (address, port), socket.SO_REUSEADDR))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # not before: a stranger might share his with us
            port = one.getsockname()[1]
        yield port


def share(host: str, port: int) -> list[socket.socket]:
    """Sockets to listen on beside other processes; the kernel gives each new connection to one of those who listen."""
    sockets = [_bound(family, (address, port), socket.SO_REUSEPORT) for family, address in _addresses(host, port)]
    for one in sockets:  # what is left of closed connections must not keep the port from who comes next
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sockets


def own(host: str, port: int) -> list[socket.socket]:
    """Sockets to listen on alone; raises `OSError` where somebody else has the port."""
    sockets = [_bound(family, (address, port), socket.SO_REUSEADDR) for family, address in _addresses(host, port)]
    for one in sockets:
        one.listen()
    return sockets


def widened(sockets: Sequence[socket.socket]) -> list[socket.socket]:
    """The same sockets `ACCEPTED` times: an event loop takes one new connection from each in a turn."""
    return [door for one in sockets for door in (one, *(one.dup() for _ in range(ACCEPTED - 1)))]


def url(host: str, port: int) -> str:
    """Where callers find it."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _addresses(host: str, port: int) -> list[tuple[int, str]]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, str(address[0])) for family, *_, address in found))


def _bound(family: int, address: tuple[str, int], option: int) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, option, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise OSError(error.errno, f"{address[0]} port {address[1]}: {error.strerror}") from None
    return bound
