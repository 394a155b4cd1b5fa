"""API keys that clients send in the wrong place: no line of the log holds one, nor text of a refused request."""

import socket
from base64 import b64encode
from contextlib import suppress
from urllib.parse import quote

import pytest

from tests.support.live_server import LATENT
from tests.support.raw_http import ServerProcess, server_process

KEYS = ("sk-8d1f0a7b65e34c29", 'a"quoted\\key-of-20', "clé-ü-0123456789", "k" * 200)
WRONG_KEY = "another-service-0123"


def misplaced(key: bytes) -> dict[str, bytes]:
    """Requests that hold a key where no key belongs; most are refused by the parser."""
    field = b"Authorization: Bearer " + key
    head = b"POST /decode HTTP/1.1\r\nHost: vae\r\nContent-Type: application/json\r\n" + field + b"\r\n"
    return {
        "as the request line": field + b"\r\nHost: x\r\n\r\n",
        "as a request line without carriage return": field + b"\nHost: x\n\n",
        "behind a body that is longer than declared": head
        + b"Content-Length: %d\r\n\r\n%s%s\r\nHost: x\r\n\r\n" % (len(LATENT), LATENT, field),
        "as the method": key + b" / HTTP/1.1\r\nHost: vae\r\n\r\n",
        "as the target": b"GET " + key + b" HTTP/1.1\r\nHost: vae\r\n\r\n",
        "as a path": b"GET /" + quote(key).encode() + b" HTTP/1.1\r\nHost: vae\r\n" + field + b"\r\n\r\n",
        "as the host": b"GET /model HTTP/1.1\r\nHost: key=" + key + b" x\r\n\r\n",
        "as the version": b"GET / HTTP/1.1 " + key + b"\r\nHost: vae\r\n\r\n",
        "as a transfer coding": head + b"Transfer-Encoding: " + key + b"\r\n\r\n",
        "as a length": head + b"Content-Length: " + key + b"\r\n\r\n",
        "as the request id": b"GET /model HTTP/1.1\r\nHost: vae\r\nX-Request-ID: " + key + b"\r\n\r\n",
        "in Basic credentials as the request line": b"Authorization: Basic %b\r\n\r\n" % b64encode(b":" + key),
        "in Basic credentials as a header": head.replace(field, b"Authorization: Basic " + b64encode(b":" + key))
        + b"\r\n",
        "cut by the limit of a quotation": b"x" * 85 + field + b"\r\nHost: x\r\n\r\n",
    }


def traces(key: str) -> set[str]:
    """The spellings of the beginning of a key in a log."""
    basic = b64encode(b":" + key.encode()).decode()
    return {quote(key)[:8], repr(key)[1:9], key.encode().decode("latin-1")[:8], key[:8], basic[:8]}


@pytest.fixture(scope="module")
def log(digits_model) -> str:
    """The log of a service to which all those requests were sent."""
    with server_process(digits_model, api_key=",".join(KEYS), log_level="debug") as server:
        for key in (*KEYS, WRONG_KEY):
            for place, request in misplaced(key.encode()).items():
                if (place, key) != ("as the request id", WRONG_KEY):  # any other id is logged as it comes
                    send(server, request)
    assert server.log.complaints() == []
    return server.log.text()


def send(server: ServerProcess, request: bytes) -> None:
    """Send a request and wait until the server has closed the connection."""
    with server.connect() as client, suppress(ConnectionError):
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        while client.recv(2**16):
            pass


@pytest.mark.parametrize("key", [*KEYS, WRONG_KEY])
def test_no_log_line_holds_a_key(log, key):
    lines = [line for line in log.splitlines() if "rejected a request" in line or "app.access" in line]
    assert len(lines) >= len(KEYS) * len(misplaced(b"x"))
    found = [line for line in lines for trace in traces(key) if trace in line]
    assert found == []
