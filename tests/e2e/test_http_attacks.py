"""Hostile byte streams: their cost is bounded, and other clients are served meanwhile."""

import json
import random
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.e2e.test_http_conformance import CASES
from tests.support.raw_http import PROBE, ServerProcess, read_response, server_process

GET = b"GET /livez HTTP/1.1\r\nHost: vae\r\n\r\n"
LATENT = json.dumps({"latents": [[0, 0, 0, 0]]}).encode()
CHUNKED = (
    b"POST /decode HTTP/1.1\r\nHost: vae\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n%s\r\n"
)
UPGRADE = b"GET /livez HTTP/1.1\r\nHost: vae\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
KEY = b"Authorization: Bearer a-key-of-16-char\r\n"
MIB = 2**20


@pytest.fixture(scope="module")
def server(digits_model) -> Iterator[ServerProcess]:
    """A server for all attacks; it may log no error and no warning."""
    with server_process(digits_model, api_key="a-key-of-16-char") as process:
        yield process
    assert process.log.complaints() == []


def alive(server: ServerProcess) -> bool:
    return server.ask(PROBE).status == 200


def send_until_blocked(client: socket.socket, block: bytes, most: int) -> int:
    """Send until the server stops reading; the number of bytes accepted, including those in kernel buffers."""
    client.settimeout(1)
    sent = 0
    with suppress(TimeoutError, ConnectionError):
        while sent < most:
            sent += client.send(block)
    return sent


@pytest.mark.parametrize(
    "request_bytes",
    [GET, UPGRADE, b"GET /model HTTP/1.1\r\nHost: vae\r\n\r\n", b"GET / HTTP/1.1\r\nHost: vae\r\n" + KEY + b"\r\n"],
    ids=["a probe", "an upgrade", "without a key", "with a key"],
)
def test_pipelined_requests_are_not_read_while_their_responses_are_not_read(server, request_bytes):
    before = server.resident_bytes()
    with server.connect() as client:
        assert send_until_blocked(client, request_bytes * 1000, 64 * MIB) < 32 * MIB
        assert alive(server)
        assert server.resident_bytes() - before < 32 * MIB


def test_pipelined_requests_are_all_answered_while_their_responses_are_read(server):
    with server.connect() as client, client.makefile("rb") as stream:
        for _ in range(5):
            client.sendall(GET * 200)
            for _ in range(200):
                response = read_response(stream)
                assert response is not None
                assert response.status == 200


def test_a_body_behind_an_unanswered_request_is_not_read(server):
    with server.connect() as client:
        client.sendall(b"POST /encode HTTP/1.1\r\nHost: vae\r\n" + KEY + b"Content-Length: 10\r\n\r\n")
        client.sendall(b"0123456789" + b"POST /encode HTTP/1.1\r\nHost: vae\r\nContent-Length: 999999999\r\n\r\n")
        before = server.resident_bytes()
        send_until_blocked(client, bytes(2**16), 64 * MIB)
        assert alive(server)
        assert server.resident_bytes() - before < 64 * MIB


def test_authorization_in_a_trailer_authenticates_nothing(server):
    with server.connect() as client, client.makefile("rb") as stream:
        client.sendall(CHUNKED % b"" + b"%x\r\n%s\r\n0\r\n%s\r\n" % (len(LATENT), LATENT, KEY))
        client.sendall(CHUNKED % KEY + b"%x\r\n%s\r\n0\r\nAuthorization: Bearer x\r\n\r\n" % (len(LATENT), LATENT))
        statuses = [response.status for _ in range(2) if (response := read_response(stream))]
        assert statuses == [401, 200]


def test_bodies_of_empty_lines_or_one_byte_chunks_do_not_block_other_requests(server):
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(4)]
        for client, body in zip(
            clients, (b"1\r\n\n\r\n" * 40_000, b"40000\r\n" + b"\r\n" * 2**17 + b"\r\n") * 2, strict=True
        ):
            client.sendall(CHUNKED % KEY + body)
            assert alive(server)
        for client in clients:
            client.sendall(b"0\r\n\r\n")
            with client.makefile("rb") as stream:
                response = read_response(stream)
                assert response is not None
                assert response.status == 400


def test_rejected_requests_are_counted_by_status(server):
    def refusals() -> dict[str, float]:
        text = server.ask(b"GET /metrics HTTP/1.1\r\nHost: vae\r\nConnection: close\r\n\r\n").body.decode()
        found = re.findall(r'^vae_protocol_errors_total\{status="(\d+)"\} (\S+)$', text, re.MULTILINE)
        return {status: float(count) for status, count in found}

    before = refusals()
    assert server.ask(b"GET / HTTP/1.1\r\n\r\n").status == 400
    assert server.ask(b"GET / HTTP/2.0\r\n\r\n").status == 505
    after = refusals()
    assert {status: after[status] - before[status] for status in after if after[status] > before[status]} == {
        "400": 1,
        "505": 1,
    }


def test_mutated_requests_cause_no_failure(server):
    rng = random.Random(0)
    streams = [case.values[0].sent for case in CASES if len(case.values[0].sent) < 2000]
    for _ in range(300):
        stream = bytearray(rng.choice(streams) + rng.choice(streams))
        for _ in range(rng.randrange(4)):
            place = rng.randrange(len(stream))
            stream[place : place + rng.randrange(3)] = rng.choice(
                [b"", b"\r", b"\n", b"\r\n", b"\0", b"\xff", b" ", b":", b"5"]
            )
        with server.connect() as client, suppress(ConnectionError):
            client.sendall(stream)
            if rng.random() < 0.5:
                client.shutdown(socket.SHUT_WR)
                client.recv(100)
    assert alive(server)
