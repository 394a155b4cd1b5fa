"""Clients that close their sending half after a request get a response."""

import socket
from collections.abc import Iterator

import pytest

from tests.support.live_server import LATENT
from tests.support.raw_http import ServerProcess, read_response, server_process

GET = b"GET /model HTTP/1.1\r\nHost: vae\r\n\r\n"
FIELDS = b"Host: vae\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(LATENT)
DECODE = b"POST /decode HTTP/1.1\r\n" + FIELDS + b"\r\n" + LATENT
LONG = b"GET /sample?n=512&seed=1 HTTP/1.1\r\nHost: vae\r\nAccept: application/json\r\n\r\n"


@pytest.fixture(scope="module")
def server(digits_model) -> Iterator[ServerProcess]:
    with server_process(digits_model, max_batch_delay_ms=100) as process:
        yield process
    assert process.log.complaints() == []


def statuses_after_half_close(server: ServerProcess, sent: bytes) -> list[int]:
    """The statuses of all responses up to the end of the connection, without interim ones."""
    with server.connect() as client, client.makefile("rb") as stream:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        found = []
        while (response := read_response(stream)) is not None:
            found.append(response.status)
    return [status for status in found if status >= 200]


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (GET, [200]),
        (DECODE, [200]),
        (LONG, [200]),
        (DECODE.replace(b"HTTP/1.1", b"HTTP/1.0"), [200]),
        (GET + DECODE + GET, [200, 200, 200]),
        (GET * 300, [200] * 300),
        (DECODE.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"), [200]),
        (GET + DECODE[:-1], [200]),
        (GET + DECODE[:30], [200]),
        (DECODE + b"nonsense\r\n\r\n", [200, 400]),
        (DECODE[:-1], []),
        (GET[:-2], []),
        (b"", []),
    ],
    ids=[
        "GET",
        "POST",
        "a long response",
        "HTTP/1.0",
        "three requests",
        "300 requests",
        "Expect",
        "an incomplete body behind a request",
        "an incomplete head behind a request",
        "no HTTP behind a request",
        "an incomplete body",
        "an incomplete head",
        "nothing",
    ],
)
def test_complete_requests_before_a_half_close_are_answered_and_the_connection_closed(server, sent, statuses):
    assert statuses_after_half_close(server, sent) == statuses
