"""At the limit of open connections the longest idle one is closed for a new one."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import psutil
import pytest

from tests.support.live_server import HEAD, LATENT
from tests.support.raw_http import ServerProcess, read_response, server_process

LIMIT = 30
GET = b"GET /model HTTP/1.1\r\nHost: vae\r\nAuthorization: Bearer a-key-of-16-char\r\n\r\n"


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two workers"])
def service(request, digits_model) -> Iterator[tuple[ServerProcess, int]]:
    """A service, and its limit of open connections."""
    workers = request.param
    with server_process(digits_model, workers=workers, max_connections=LIMIT, api_key="a-key-of-16-char") as process:
        if workers > 1:
            wait_until_connections_are_spread(process, workers)
        yield process, LIMIT * workers
    assert process.log.complaints() == []


def wait_until_connections_are_spread(server: ServerProcess, workers: int) -> None:
    """Wait until each worker gets its part of new connections: a worker that has just started may be silent a while."""
    children = psutil.Process(server.pid).children()
    for _ in range(300):
        with ExitStack() as stack:
            clients = [stack.enter_context(server.connect()) for _ in range(LIMIT)]
            assert [status(client) for client in clients] == [200] * LIMIT
            counts = sorted(len(child.net_connections("tcp")) for child in children)[-workers:]
        time.sleep(0.1)
        if min(counts) >= LIMIT // workers:
            return
    raise AssertionError(f"connections of the workers: {counts}")


def is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    finally:
        client.settimeout(30)


def status(client: socket.socket, request: bytes = GET) -> int:
    client.sendall(request)
    with client.makefile("rb") as stream:
        response = read_response(stream)
    assert response is not None
    return response.status


@pytest.mark.parametrize("sent", [b"", b"GET /model HTT"], ids=["nothing", "half a head"])
def test_a_new_client_is_served_and_the_longest_idle_one_is_closed(service, sent):
    server, allowed = service
    with ExitStack() as stack:
        first = [stack.enter_context(server.connect()) for _ in range(allowed)]
        for client in first:
            with suppress(ConnectionError):
                client.sendall(sent)
        new = [stack.enter_context(server.connect()) for _ in range(allowed // 2)]
        assert [status(client) for client in new] == [200] * len(new)
        closed = [not is_open(client) for client in first]
        assert sum(closed) >= len(new)
        assert all(is_open(client) for client in new)
        if allowed == LIMIT:  # each of several workers closes the longest idle of its own connections
            assert all(closed[: len(new) // 2])
            assert not any(closed[-len(new) // 2 :])


def test_a_connection_with_a_recent_request_is_kept(service):
    server, allowed = service
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(allowed // 2)]
        assert [status(client) for client in reversed(clients)] == [200] * len(clients)
        new = [stack.enter_context(server.connect()) for _ in range(allowed * 3 // 4)]
        assert [status(client) for client in new] == [200] * len(new)
        closed = [not is_open(client) for client in clients]
        assert not closed[0]
        assert sum(closed) >= len(clients) + len(new) - allowed
        if allowed == LIMIT:  # the last one may be a connection of the worker that has fewer
            assert closed[-1]


def test_connections_with_a_request_in_flight_are_kept_and_a_new_one_is_rejected(service):
    server, allowed = service
    with ExitStack() as stack:
        busy: list[socket.socket] = []
        for _ in range(allowed + LIMIT):  # a worker that is full rejects; the other one still takes connections
            client = stack.enter_context(server.connect())
            client.sendall(HEAD % len(LATENT))
            with client.makefile("rb") as stream:
                begin = stream.read(25)
            assert begin in (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 503 Service Unav")
            busy += [client] * begin.startswith(b"HTTP/1.1 100")
            if len(busy) == allowed:
                break
        assert len(busy) == allowed
        assert status(stack.enter_context(server.connect())) == 503
        assert [status(client, LATENT) for client in busy] == [200] * allowed


@pytest.mark.slow
def test_connections_whose_bodies_make_no_progress_are_closed_for_a_new_client(service):
    server, allowed = service
    head = (
        b"POST /decode HTTP/1.1\r\nHost: vae\r\nAuthorization: Bearer a-key-of-16-char\r\nContent-Length: 100\r\n\r\n"
    )
    with ExitStack() as stack:
        stalled = [stack.enter_context(server.connect()) for _ in range(allowed)]
        for client in stalled:
            client.sendall(head + b"{")
        with stalled[0].makefile("rb") as stream:
            response = read_response(stream)
        assert response is not None
        assert (response.status, response.closes) == (408, True)
        while (answer := server.ask(GET)).status != 200:
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
