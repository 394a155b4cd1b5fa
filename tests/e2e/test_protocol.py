"""The HTTP protocol on sockets: writes of responses, limits on heads, timeouts, upgrades, and freed connections."""

import asyncio
import gc
import json
import socket
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from app.http.protocol.connection import HttpConnection
from app.http.protocol.request_reader import MAX_HEADER_BYTES, MAX_HEADER_FIELDS, MAX_LINE_BYTES
from tests.support.apps import until
from tests.support.live_server import serving

pytestmark = pytest.mark.anyio

ASK = b"GET %s HTTP/1.1\r\nHost: vae\r\n\r\n"


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio", {"use_uvloop": True}  # as the service has it


@asynccontextmanager
async def connected(app: ASGIApp, header_timeout: float = 30.0) -> AsyncIterator[tuple[socket.socket, HttpConnection]]:
    """The client's socket of a connection to the application, and its protocol. Blocking calls run in a thread."""
    near, far = socket.socketpair()
    near.settimeout(30)
    config = Config(app, log_config=None, lifespan="off")
    config.load()
    loop = asyncio.get_running_loop()
    protocol = HttpConnection(config, ServerState(), {}, header_timeout=header_timeout)
    await loop.connect_accepted_socket(lambda: protocol, far)
    with near:
        yield near, protocol
    protocol.transport.abort()
    await asyncio.sleep(0)


async def test_head_and_body_of_a_response_arrive_together(digits_model):
    async with serving(digits_model) as it:
        with socket.create_connection(("127.0.0.1", it.port), timeout=30) as client:
            for _ in range(30):
                await asyncio.to_thread(client.sendall, ASK % b"/livez")
                answer = await asyncio.to_thread(client.recv, 2**16)
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
                assert answer.endswith(b'{"status":"alive"}')


@pytest.mark.parametrize("close", [False, True])
async def test_a_head_without_a_body_is_sent_also_before_the_connection_closes(close):
    async def headed(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"7"), *([(b"connection", b"close")] if close else [])]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"no body"})

    async with connected(headed) as (client, _):
        client.sendall(b"HEAD / HTTP/1.1\r\nHost: vae\r\n\r\n")
        answer = await asyncio.to_thread(client.recv, 2**16)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\n")
        if close:
            assert await asyncio.to_thread(client.recv, 1) == b""


async def test_a_piece_of_a_response_is_sent_before_the_next_one_exists():
    async def dripping(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        for number, piece in enumerate((b"a", b"b", b"c", b"d")):
            await requested.acquire()
            await send({"type": "http.response.body", "body": piece, "more_body": number < 3})

    requested = asyncio.Semaphore(0)
    async with connected(dripping) as (client, _):
        client.sendall(ASK % b"/")
        requested.release()
        assert (await asyncio.to_thread(client.recv, 2**16)).endswith(b"\r\n\r\na")  # the head with the first piece
        for piece in (b"b", b"c", b"d"):
            requested.release()
            assert await asyncio.to_thread(client.recv, 2**16) == piece


async def test_a_client_that_resets_the_connection_causes_no_error():
    async def long(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8")]})
        await send({"type": "http.response.body", "body": b"here", "more_body": True})
        await asyncio.sleep(0.01)
        client.close()  # with something unread: the connection is reset
        while not connection.transport.is_closing():
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"more"})
        done.set()

    done, failures = asyncio.Event(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    async with connected(long) as (client, connection):
        client.sendall(ASK % b"/")
        await done.wait()
        await asyncio.sleep(0.05)
    assert not failures


async def echo_size(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the request body and respond with its size."""
    received, more = 0, True
    while more:
        message = await receive()
        received += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"%d" % received
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def next_response(client: socket.socket) -> tuple[bytes, bytes]:
    """The status line and the body of the next response; empty if the connection is closed."""
    with client.makefile("rb") as file:
        try:
            first, length = await asyncio.to_thread(file.readline), 0
            while line := (await asyncio.to_thread(file.readline)).strip().lower():
                length = int(line.split()[1]) if line.startswith(b"content-length") else length
            return first.strip(), await asyncio.to_thread(file.read, length)
        except ConnectionError:
            return b"", b""


def head(length: int, kind: str) -> bytes:
    """A request head of this size: with a long path, a long header field, or many short ones."""
    host = b"Host: vae\r\n"
    start, end = {
        "path": (b"GET /", b" HTTP/1.1\r\n" + host),
        "header": (b"GET / HTTP/1.1\r\n" + host + b"a:", b"\r\n"),
        "headers": (b"GET / HTTP/1.1\r\n" + host + b"b:", b"\r\n" + b"a:b\r\n" * (MAX_HEADER_FIELDS - 2)),
    }[kind]
    return start + b"x" * (length - len(start + end + b"\r\n")) + end + b"\r\n"


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize(
    ("kind", "longest", "refusal"),
    [
        ("path", MAX_LINE_BYTES + len("\r\nHost: vae\r\n\r\n"), b"414 Request-URI Too Long"),
        ("header", MAX_HEADER_BYTES, b"431 Request Header Fields Too Large"),
        ("headers", MAX_HEADER_BYTES, b"431 Request Header Fields Too Large"),
    ],
)
async def test_a_head_of_the_largest_size_is_accepted_and_a_larger_one_gets_a_problem(kind, longest, refusal, pieces):
    async with connected(echo_size) as (client, _):
        for length in (longest, 100, longest + 1):  # the second is not counted on top of the first
            data = head(length, kind if length > 100 else "header")
            for start in range(0, length, size := -(-length // pieces)):
                await asyncio.to_thread(client.sendall, data[start : start + size])
                await asyncio.sleep(0.001)
            first, body = await next_response(client)
            if length <= longest:
                assert (first, body) == (b"HTTP/1.1 200 OK", b"0")
        assert first == b"HTTP/1.1 " + refusal
        assert " exceed" in json.loads(body)["detail"]
        assert await asyncio.to_thread(client.recv, 1) == b""


@pytest.mark.parametrize("endless", [b"1;%s", b"0\r\na: %s", b"0\r\n%s"], ids=["extension", "trailer", "trailers"])
async def test_an_endless_chunk_extension_or_trailer_is_rejected_and_the_connection_closed(endless):
    async with connected(echo_size) as (client, _):
        client.sendall(b"POST / HTTP/1.1\r\nHost: vae\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        piece = b"a: b\r\n" if endless.endswith(b"\n%s") else b"x"
        await asyncio.to_thread(client.sendall, endless % (piece * (2**18 // len(piece))))
        assert (await next_response(client))[0] == b"HTTP/1.1 431 Request Header Fields Too Large"
        assert await asyncio.to_thread(client.recv, 1) == b""


async def test_bytes_that_are_no_request_get_a_problem():
    for data in (
        b"hello\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: vae\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n",
    ):
        async with connected(echo_size) as (client, _):
            client.sendall(data)
            first, body = await next_response(client)
            assert (first, json.loads(body)["title"]) == (b"HTTP/1.1 400 Bad Request", "Malformed request")
            assert await asyncio.to_thread(client.recv, 1) == b""


@pytest.mark.parametrize("rest", [b"1;" + b"x" * 2**17, b"no number\r\n"])
async def test_a_malformed_body_after_the_response_gets_no_second_response(rest):
    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"no"})

    async with connected(refusing) as (client, _):
        client.sendall(b"POST / HTTP/1.1\r\nHost: vae\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert await next_response(client) == (b"HTTP/1.1 401 Unauthorized", b"no")
        with suppress(ConnectionError):
            await asyncio.to_thread(client.sendall, rest)
            assert await asyncio.to_thread(client.recv, 1) == b""


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"


@pytest.mark.parametrize(
    "upgrade", [UPGRADE, UPGRADE.lower(), b"upgrade: websocket\r\nconnection: upgrade, keep-alive\r\n"]
)
@pytest.mark.parametrize("piece", [1, 50, 1000])
async def test_an_upgrade_request_is_answered_over_http_1_1_and_its_body_is_read(upgrade, piece):
    body = b"GET /another HTTP/1.1\r\nHost: vae\r\n\r\n"
    data = b"POST / HTTP/1.1\r\nHost: vae\r\n%sContent-Length: %d\r\n\r\n%s" % (upgrade, len(body), body)
    async with connected(echo_size) as (client, _):
        for _ in range(2):
            for start in range(0, len(data), piece):
                client.sendall(data[start : start + piece])
                await asyncio.sleep(0)
            assert await next_response(client) == (b"HTTP/1.1 200 OK", str(len(body)).encode())


async def test_an_upgrade_request_with_connection_close_closes_the_connection():
    async with connected(echo_size) as (client, _):
        client.sendall(b"GET / HTTP/1.1\r\nHost: vae\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n")
        assert await next_response(client) == (b"HTTP/1.1 200 OK", b"0")
        assert await asyncio.to_thread(client.recv, 1) == b""


async def test_a_connection_whose_response_is_not_read_is_closed_and_a_slow_one_is_not():
    size = 2**24

    async def long(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": bytes(size)})

    async with connected(long, header_timeout=0.2) as (client, connection):
        client.sendall(ASK % b"/")
        async with asyncio.timeout(30):
            while not connection.transport.is_closing():
                await asyncio.sleep(0.01)
    async with connected(long, header_timeout=0.5) as (client, _):
        client.sendall(ASK % b"/")
        received = 0
        while piece := await asyncio.to_thread(client.recv, size // 50):
            received += len(piece)
            if received > size:
                break
            await asyncio.sleep(0.02)
        assert received > size


async def test_a_long_body_does_not_count_as_a_head():
    complete = b"POST / HTTP/1.1\r\nHost: vae\r\nContent-Length: 2000000\r\n\r\n" + bytes(2_000_000)
    chunks = b"POST / HTTP/1.1\r\nHost: vae\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1;x\r\na\r\n" * 20_000
    async with connected(echo_size) as (client, _):
        for data, received in ((complete, b"2000000"), (chunks + b"0\r\na: b\r\n\r\n", b"20000")):
            sending = asyncio.create_task(asyncio.to_thread(client.sendall, data))
            assert await next_response(client) == (b"HTTP/1.1 200 OK", received)
            await sending


@pytest.mark.parametrize("first", [b"", ASK % b"/"], ids=["of the line", "of one more request"])
@pytest.mark.parametrize(
    "half", [b"", b"G", b"GET / HTTP/1.1\r\nHost: vae\r\na: "], ids=["nothing", "a letter", "half a head"]
)
async def test_a_connection_with_an_incomplete_head_is_closed(first, half):
    async with connected(echo_size, header_timeout=0.2) as (client, connection):
        connection.timeout_keep_alive = 0.2
        if first:
            client.sendall(first)
            assert await next_response(client) == (b"HTTP/1.1 200 OK", b"0")
        with suppress(ConnectionError):  # on a busy machine it is too late already
            client.sendall(half)
        assert await asyncio.to_thread(client.recv, 1) == b""


async def test_a_connection_is_closed_when_idle_although_empty_lines_follow_its_requests():
    async with connected(echo_size) as (client, connection), asyncio.timeout(20):
        connection.timeout_keep_alive = 2  # long enough for a busy machine
        for _ in range(2):
            client.sendall(ASK % b"/" + b"\r\n")
            assert await next_response(client) == (b"HTTP/1.1 200 OK", b"0")
        assert await asyncio.to_thread(client.recv, 1) == b""


async def test_a_connection_is_closed_when_idle_after_an_early_response_to_a_chunked_body():
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": b"0"})

    async with connected(refuse) as (client, connection), asyncio.timeout(20):
        connection.timeout_keep_alive = 0.2
        client.sendall(b"POST / HTTP/1.1\r\nHost: vae\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        assert await next_response(client) == (b"HTTP/1.1 200 OK", b"0")
        assert await asyncio.to_thread(client.recv, 1) == b""


async def test_a_connection_that_sends_a_head_byte_by_byte_is_closed():
    async def send_bytes() -> None:
        client.sendall(b"GET / HTTP/1.1\r\nHost: vae\r\na: ")
        while True:
            client.sendall(b"G")
            await asyncio.sleep(0.001)

    async with connected(echo_size, header_timeout=0.2) as (client, _), asyncio.timeout(30):
        with pytest.raises(ConnectionError):
            await send_bytes()


async def test_a_connection_that_waits_for_a_response_or_sends_a_long_body_is_kept():
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.5)
        await echo_size(scope, receive, send)

    async with connected(slow, header_timeout=0.1) as (client, _):
        client.sendall(b"POST / HTTP/1.1\r\nHost: vae\r\nContent-Length: 20\r\n\r\n")
        for _ in range(20):
            client.sendall(b"x")
            await asyncio.sleep(0.04)
        assert await next_response(client) == (b"HTTP/1.1 200 OK", b"20")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        ASK % b"/",
        (ASK % b"/") * 400,
        ASK % b"/" + b"GET / HT",
        b"POST / HTTP/1.1\r\nHost: vae\r\nContent-Length: 9\r\n\r\nhalf",
        (ASK % b"/")[:-2] + UPGRADE + b"\r\n",
        b"garbage\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: vae\r\nTransfer-Encoding: chunked\r\n\r\ngarbage\r\n",
    ],
)
@pytest.mark.parametrize("answers", [True, False], ids=["answered", "not answered"])
async def test_a_closed_connection_is_freed_without_a_garbage_collection(sent, answers):
    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    gc.disable()
    try:
        async with connected(echo_size if answers else waiting) as (client, connection):
            freed = weakref.ref(connection)
            client.sendall(sent)
            await asyncio.sleep(0.02)
            client.close()
            del connection
        await until(lambda: freed() is None)
    finally:
        gc.enable()
