"""What a caller receives, and when: an answer comes whole, and nothing of it is kept back."""

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
    """The caller's end of a connection to the application, and the service's; who waits there does so in a thread."""
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


async def test_an_answers_head_and_body_arrive_together(digits_model):
    async with serving(digits_model) as it:
        with socket.create_connection(("127.0.0.1", it.port), timeout=30) as caller:
            for _ in range(30):
                await asyncio.to_thread(caller.sendall, ASK % b"/livez")
                answer = await asyncio.to_thread(caller.recv, 2**16)
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
                assert answer.endswith(b'{"status":"alive"}')


@pytest.mark.parametrize("close", [False, True])
async def test_a_head_without_a_body_is_sent_though_the_connection_closes(close):
    async def headed(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"7"), *([(b"connection", b"close")] if close else [])]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"no body"})

    async with connected(headed) as (caller, _):
        caller.sendall(b"HEAD / HTTP/1.1\r\nHost: vae\r\n\r\n")
        answer = await asyncio.to_thread(caller.recv, 2**16)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\n")
        if close:
            assert await asyncio.to_thread(caller.recv, 1) == b""


async def test_a_piece_whose_next_is_not_there_yet_is_not_kept_back():
    async def dripping(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        for number, piece in enumerate((b"a", b"b", b"c", b"d")):
            await asked.acquire()
            await send({"type": "http.response.body", "body": piece, "more_body": number < 3})

    asked = asyncio.Semaphore(0)
    async with connected(dripping) as (caller, _):
        caller.sendall(ASK % b"/")
        assert (await asyncio.to_thread(caller.recv, 2**16)).endswith(b"\r\n\r\n")
        for piece in (b"a", b"b", b"c", b"d"):
            asked.release()
            assert await asyncio.to_thread(caller.recv, 2**16) == piece


async def test_a_caller_who_is_gone_when_his_answer_would_leave_is_no_failure():
    async def long(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8")]})
        await send({"type": "http.response.body", "body": b"here", "more_body": True})
        await asyncio.sleep(0.01)
        caller.close()  # with something unread: the connection is reset
        while not connection.transport.is_closing():
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"more"})
        done.set()

    done, failures = asyncio.Event(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    async with connected(long) as (caller, connection):
        caller.sendall(ASK % b"/")
        await done.wait()
        await asyncio.sleep(0.05)
    assert not failures


async def greeting(scope: Scope, receive: Receive, send: Send) -> None:
    """Hears what there is to hear, and says how much it was."""
    heard, more = 0, True
    while more:
        message = await receive()
        heard += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"%d" % heard
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def answered(caller: socket.socket) -> tuple[bytes, bytes]:
    """The status line and the body of the next answer, nothing where the line is cut."""
    with caller.makefile("rb") as file:
        try:
            first, length = await asyncio.to_thread(file.readline), 0
            while line := (await asyncio.to_thread(file.readline)).strip().lower():
                length = int(line.split()[1]) if line.startswith(b"content-length") else length
            return first.strip(), await asyncio.to_thread(file.read, length)
        except ConnectionError:
            return b"", b""


def head(length: int, kind: str) -> bytes:
    """One of so many bytes: a long path, a long header, or many short ones."""
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
async def test_the_longest_head_is_answered_and_a_longer_one_is_refused_by_a_problem(kind, longest, refusal, pieces):
    async with connected(greeting) as (caller, _):
        for length in (longest, 100, longest + 1):  # the second is not counted on top of the first
            said = head(length, kind if length > 100 else "header")
            for start in range(0, length, size := -(-length // pieces)):
                await asyncio.to_thread(caller.sendall, said[start : start + size])
                await asyncio.sleep(0.001)
            first, body = await answered(caller)
            if length <= longest:
                assert (first, body) == (b"HTTP/1.1 200 OK", b"0")
        assert first == b"HTTP/1.1 " + refusal
        assert " exceed" in json.loads(body)["detail"]
        assert await asyncio.to_thread(caller.recv, 1) == b""


@pytest.mark.parametrize("endless", [b"1;%s", b"0\r\na: %s", b"0\r\n%s"], ids=["extension", "trailer", "trailers"])
async def test_what_follows_a_chunk_without_end_is_refused_and_the_connection_closed(endless):
    async with connected(greeting) as (caller, _):
        caller.sendall(b"POST / HTTP/1.1\r\nHost: vae\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        piece = b"a: b\r\n" if endless.endswith(b"\n%s") else b"x"
        await asyncio.to_thread(caller.sendall, endless % (piece * (2**18 // len(piece))))
        assert (await answered(caller))[0] == b"HTTP/1.1 431 Request Header Fields Too Large"
        assert await asyncio.to_thread(caller.recv, 1) == b""


async def test_what_is_no_request_is_told_so_as_all_else_that_goes_wrong():
    for said in (b"hello\r\n\r\n", b"POST / HTTP/1.1\r\nHost: vae\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n"):
        async with connected(greeting) as (caller, _):
            caller.sendall(said)
            first, body = await answered(caller)
            assert (first, json.loads(body)["title"]) == (b"HTTP/1.1 400 Bad Request", "Malformed request")
            assert await asyncio.to_thread(caller.recv, 1) == b""


@pytest.mark.parametrize("rest", [b"1;" + b"x" * 2**17, b"no number\r\n"])
async def test_who_has_his_answer_is_not_given_another_when_his_body_goes_wrong(rest):
    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"no"})

    async with connected(refusing) as (caller, _):
        caller.sendall(b"POST / HTTP/1.1\r\nHost: vae\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert await answered(caller) == (b"HTTP/1.1 401 Unauthorized", b"no")
        with suppress(ConnectionError):
            await asyncio.to_thread(caller.sendall, rest)
            assert await asyncio.to_thread(caller.recv, 1) == b""


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"


@pytest.mark.parametrize(
    "upgrade", [UPGRADE, UPGRADE.lower(), b"upgrade: websocket\r\nconnection: upgrade, keep-alive\r\n"]
)
@pytest.mark.parametrize("piece", [1, 50, 1000])
async def test_who_asks_for_another_protocol_is_answered_in_this_one_and_his_body_is_heard(upgrade, piece):
    body = b"GET /another HTTP/1.1\r\nHost: vae\r\n\r\n"
    said = b"POST / HTTP/1.1\r\nHost: vae\r\n%sContent-Length: %d\r\n\r\n%s" % (upgrade, len(body), body)
    async with connected(greeting) as (caller, _):
        for _ in range(2):
            for start in range(0, len(said), piece):
                caller.sendall(said[start : start + piece])
                await asyncio.sleep(0)
            assert await answered(caller) == (b"HTTP/1.1 200 OK", str(len(body)).encode())


async def test_a_line_that_is_to_be_closed_is_though_it_asked_for_another_protocol():
    async with connected(greeting) as (caller, _):
        caller.sendall(b"GET / HTTP/1.1\r\nHost: vae\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n")
        assert await answered(caller) == (b"HTTP/1.1 200 OK", b"0")
        assert await asyncio.to_thread(caller.recv, 1) == b""


async def test_who_takes_nothing_of_his_answer_is_let_go_and_who_takes_it_slowly_is_not():
    size = 2**24

    async def long(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": bytes(size)})

    async with connected(long, header_timeout=0.2) as (caller, connection):
        caller.sendall(ASK % b"/")
        async with asyncio.timeout(30):
            while not connection.transport.is_closing():
                await asyncio.sleep(0.01)
    async with connected(long, header_timeout=0.5) as (caller, _):
        caller.sendall(ASK % b"/")
        heard = 0
        while piece := await asyncio.to_thread(caller.recv, size // 50):
            heard += len(piece)
            if heard > size:
                break
            await asyncio.sleep(0.02)
        assert heard > size


async def test_a_long_body_is_no_head_however_it_is_divided():
    whole = b"POST / HTTP/1.1\r\nHost: vae\r\nContent-Length: 2000000\r\n\r\n" + bytes(2_000_000)
    chunks = b"POST / HTTP/1.1\r\nHost: vae\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1;x\r\na\r\n" * 20_000
    async with connected(greeting) as (caller, _):
        for said, heard in ((whole, b"2000000"), (chunks + b"0\r\na: b\r\n\r\n", b"20000")):
            asking = asyncio.create_task(asyncio.to_thread(caller.sendall, said))
            assert await answered(caller) == (b"HTTP/1.1 200 OK", heard)
            await asking


@pytest.mark.parametrize("first", [b"", ASK % b"/"], ids=["of the line", "of one more request"])
@pytest.mark.parametrize(
    "half", [b"", b"G", b"GET / HTTP/1.1\r\nHost: vae\r\na: "], ids=["nothing", "a letter", "half a head"]
)
async def test_who_does_not_come_to_the_end_of_a_head_is_let_go(first, half):
    async with connected(greeting, header_timeout=0.2) as (caller, connection):
        connection.timeout_keep_alive = 0.2
        if first:
            caller.sendall(first)
            assert await answered(caller) == (b"HTTP/1.1 200 OK", b"0")
        with suppress(ConnectionError):  # on a busy machine it is too late already
            caller.sendall(half)
        assert await asyncio.to_thread(caller.recv, 1) == b""


async def test_who_says_a_head_letter_by_letter_is_let_go():
    async def say_on() -> None:
        caller.sendall(b"GET / HTTP/1.1\r\nHost: vae\r\na: ")
        while True:
            caller.sendall(b"G")
            await asyncio.sleep(0.001)

    async with connected(greeting, header_timeout=0.2) as (caller, _), asyncio.timeout(30):
        with pytest.raises(ConnectionError):
            await say_on()


async def test_who_waits_for_his_answer_or_says_a_long_body_is_not_let_go():
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.5)
        await greeting(scope, receive, send)

    async with connected(slow, header_timeout=0.1) as (caller, _):
        caller.sendall(b"POST / HTTP/1.1\r\nHost: vae\r\nContent-Length: 20\r\n\r\n")
        for _ in range(20):
            caller.sendall(b"x")
            await asyncio.sleep(0.04)
        assert await answered(caller) == (b"HTTP/1.1 200 OK", b"20")


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
        async with connected(greeting if answers else waiting) as (caller, connection):
            freed = weakref.ref(connection)
            caller.sendall(sent)
            await asyncio.sleep(0.02)
            caller.close()
            del connection
        await until(lambda: freed() is None)
    finally:
        gc.enable()
