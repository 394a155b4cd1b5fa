"""The middleware that answers 503 to a request that has lost its body."""

import asyncio
import json
import re
import time
from contextlib import contextmanager

import httpx
import pytest

from app.main import create_app
from app.server.lost_body import LostBodyMiddleware
from app.settings import Settings
from tests.support.apps import running
from tests.support.in_thread_server import on_a_socket

pytestmark = pytest.mark.anyio

LATENTS = json.dumps({"latents": [[0, 0, 0, 0]]}).encode()
JSON = b"Content-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(LATENTS)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNK = b"%x\r\n%b\r\n"


def application(model, silence_s):
    app = create_app(Settings(model=model, device="cpu", threads=1, request_timeout_s=30))
    app.add_middleware(LostBodyMiddleware, margin_s=0.2, silence_s=silence_s)
    return app


@contextmanager
def listening(model, silence_s):
    with on_a_socket(application(model, silence_s)) as url:
        while httpx.get(f"{url}/readyz").status_code != 200:
            time.sleep(0.01)
        yield url


@pytest.fixture(scope="module")
def url(digits_model):
    with listening(digits_model, silence_s=0.5) as url:
        yield url


@pytest.fixture(scope="module")
def patient(digits_model):
    with listening(digits_model, silence_s=29) as url:
        yield url


async def answer(url, *pieces, pause=0.0):
    """Status, header fields and body of what one connection is answered to a POST /decode sent in these pieces."""
    host, port = re.fullmatch(r"http://(.*):(\d+)", url).groups()
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /decode HTTP/1.1\r\nHost: vae\r\nConnection: close\r\n")
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(pause if piece is not pieces[-1] else 0)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


@pytest.mark.parametrize("framing", [LENGTH, CHUNKED], ids=["length", "chunked"])
async def test_a_request_whose_body_does_not_begin_to_arrive_gets_503_long_before_the_deadline(url, framing):
    start = time.monotonic()
    status, fields, body = await answer(url, JSON + framing + b"\r\n")
    assert status == 503
    assert fields["retry-after"] == "1"
    assert "the body did not begin to arrive" in json.loads(body)["detail"]
    assert time.monotonic() - start < 20  # the deadline is 30 s


async def test_a_body_is_lost_if_the_body_of_a_later_request_has_arrived(patient):
    start = time.monotonic()
    lost = asyncio.create_task(answer(patient, JSON + LENGTH + b"\r\n"))
    while not lost.done():
        assert (await answer(patient, JSON + LENGTH + b"\r\n" + LATENTS))[0] == 200
        await asyncio.sleep(0.1)
    assert (await lost)[0] == 503
    assert time.monotonic() - start < 20  # the silence would be 29 s


async def test_a_body_that_no_later_one_has_overtaken_is_not_lost(patient):
    complete = JSON + LENGTH + b"\r\n" + LATENTS
    assert (await answer(patient, complete))[0] == 200
    assert (await answer(patient, JSON + LENGTH + b"\r\n", LATENTS, pause=0.7))[0] == 200


@pytest.mark.parametrize(
    ("framing", "first", "rest"),
    [
        (LENGTH, LATENTS[:5], LATENTS[5:]),
        (CHUNKED, CHUNK % (5, LATENTS[:5]), CHUNK % (len(LATENTS) - 5, LATENTS[5:]) + b"0\r\n\r\n"),
    ],
    ids=["length", "chunked"],
)
async def test_a_body_that_begins_in_time_may_take_longer(url, framing, first, rest):
    status, _, _ = await answer(url, JSON + framing + b"\r\n" + first, rest, pause=0.7)
    assert status == 200


async def test_requests_without_a_body_are_not_checked(url):
    async with httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/sample?n=1&seed=1")).status_code == 200
        assert (await client.post("/decode", headers={"Content-Type": "application/json"})).status_code == 400
        assert (await client.get("/nowhere")).status_code == 404


async def sent_to(model, length, *messages):
    """What the application sends to a POST /decode; the test plays the ASGI server, and gives it these messages."""
    app = application(model, silence_s=20)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(length).encode())]
    scope = {"type": "http", "method": "POST", "path": "/decode", "query_string": b"", "headers": headers}
    given, sent = iter(messages), []

    async def receive():
        return next(given, None) or await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    async with running(app):
        await app(scope, receive, send)
    return sent


@pytest.mark.parametrize("pieces", [(LATENTS[:-1],), (LATENTS[9:],), (b"", b"}"), (b"",)], ids=repr)
async def test_a_request_whose_body_is_incomplete_gets_503(digits_model, pieces):
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages[-1]["more_body"] = False
    start, body = await sent_to(digits_model, len(LATENTS), *messages)
    assert start["status"] == 503
    assert (b"retry-after", b"1") in start["headers"]
    assert f"of {len(LATENTS)} bytes" in json.loads(body["body"])["detail"]


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "many"])
async def test_an_invalid_content_length_is_not_an_error(digits_model, length):
    sent = await sent_to(digits_model, length, {"type": "http.request", "body": LATENTS})
    assert sent[0]["status"] == 200


async def test_a_client_that_disconnects_before_its_body_gets_no_response(digits_model):
    assert await sent_to(digits_model, 5, {"type": "http.disconnect"}) == []
