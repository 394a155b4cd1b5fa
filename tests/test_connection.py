"""What a caller receives, and when: an answer comes whole, and nothing of it is kept back."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send
from test_server import serving
from uvicorn import Config
from uvicorn.server import ServerState

from app.connection import Connection

pytestmark = pytest.mark.anyio

ASK = b"GET %s HTTP/1.1\r\nHost: vae\r\n\r\n"


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio", {"use_uvloop": True}  # as the service has it


@asynccontextmanager
async def connected(app: ASGIApp) -> AsyncIterator[tuple[socket.socket, Connection]]:
    """The caller's end of a connection to the application, and the service's; who waits there does so in a thread."""
    near, far = socket.socketpair()
    near.settimeout(30)
    config = Config(app, log_config=None, lifespan="off")
    config.load()
    loop = asyncio.get_running_loop()
    protocol = Connection(config, ServerState(), {})
    await loop.connect_accepted_socket(lambda: protocol, far)
    with near:
        yield near, protocol


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
        while not connection.transport.is_closing():  # noqa: ASYNC110  # what follows comes before it is told so
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
