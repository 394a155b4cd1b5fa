"""Responses that are slow, large, or not those of the service, in the client."""

import asyncio
import gzip
import io
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from vae_client import AsyncClient, Client, Problem

from app.codecs.images import write_npy
from tests.support.in_thread_server import on_a_socket

GREY = np.zeros((3, 8, 8), np.uint8)
PROBLEM = "application/problem+json"


async def drip(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        while True:  # until the client leaves
            yield b" "
            await asyncio.sleep(0.05)

    return StreamingResponse(body(), media_type="application/json")


async def compressed(request: Request) -> Response:
    return Response(gzip.compress(b'{"name": "' + b" " * 10_000 + b'"}'), headers={"Content-Encoding": "gzip"})


async def damaged(request: Request) -> Response:
    return Response(b"no gzip", headers={"Content-Encoding": "gzip"})


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    endpoints = {"/drip": drip, "/compressed": compressed, "/damaged": damaged}
    with on_a_socket(Starlette(routes=[Route(f"{path}/model", app) for path, app in endpoints.items()])) as address:
        yield address


@pytest.mark.anyio
async def test_a_response_that_arrives_in_drips_ends_at_the_timeout(url: str) -> None:
    reason = "GET .*/drip/model: .*not complete within the timeout of 3 s"
    with Client(f"{url}/drip") as client, pytest.raises(httpx.ReadTimeout, match=reason):
        client.model(timeout=3)
    async with AsyncClient(f"{url}/drip", timeout=3) as client:
        with pytest.raises(httpx.ReadTimeout, match=reason):
            await client.model()


@pytest.mark.anyio
async def test_a_response_has_at_most_max_response_bytes_decompressed(url: str) -> None:
    reason = f"{url}/compressed/model: expected at most 9999 bytes \\(max_response_bytes\\), got more"
    with Client(f"{url}/compressed") as client:
        assert client.model() == {"name": " " * 10_000}
    with Client(f"{url}/compressed", max_response_bytes=9999) as client, pytest.raises(Problem, match=reason):
        client.model()
    async with AsyncClient(f"{url}/compressed", max_response_bytes=9999) as client:
        with pytest.raises(Problem, match=reason):
            await client.model()


@pytest.mark.anyio
async def test_a_body_that_cannot_be_decompressed_is_a_problem(url: str) -> None:
    with Client(f"{url}/damaged") as client, pytest.raises(Problem, match=f"{url}/damaged/model: .*decompress"):
        client.model()
    async with AsyncClient(f"{url}/damaged") as client:
        with pytest.raises(Problem, match="decompress"):
            await client.model()


def answering(content: bytes, status: int = 200, **headers: str) -> Client:
    """A client of a service that answers everything alike."""

    async def answer(request: Request) -> Response:
        return Response(content, status, headers={name.replace("_", "-"): text for name, text in headers.items()})

    app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])
    return Client("http://vae", transport=InThisThread(app))


class InThisThread(httpx.BaseTransport):
    """An application without a socket, for the synchronous client."""

    def __init__(self, app: Starlette) -> None:
        self._transport = httpx.ASGITransport(app)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def answer() -> httpx.Response:
            response = await self._transport.handle_async_request(httpx.Request(request.method, request.url))
            return httpx.Response(response.status_code, headers=response.headers, content=await response.aread())

        return asyncio.run(answer())


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b'"x"', b"{", b"[" * 100_000, b"\xff", b"9" * 5000, b"<html>Bad Gateway</html>"]
)
@pytest.mark.parametrize("content_type", [PROBLEM, "text/html"])
def test_an_error_without_a_problem_has_its_status_and_the_beginning_of_its_body(body: bytes, content_type) -> None:
    with answering(body, 502, content_type=content_type) as client, pytest.raises(Problem) as caught:
        client.model()
    assert caught.value.status == 502
    beginning = repr(body[:100].decode(errors="replace"))
    assert str(caught.value).startswith(f"502 Bad Gateway: the response is not one of the service: {beginning}")


def test_the_type_of_a_problem_may_have_parameters() -> None:
    client = answering(b'{"detail": "of the service"}', 422, content_type=f"{PROBLEM}; charset=utf-8")
    with client, pytest.raises(Problem, match=r": of the service$"):
        client.model()


def npy(header: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


IMAGES, POSTERIORS = write_npy(np.zeros((3, 8, 8, 1), np.uint8)), write_npy(np.zeros((2, 3, 4), np.float32))
HUGE = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (78064779984896,)}\n")


@pytest.mark.parametrize(
    ("call", "body", "headers"),
    [
        *[("encode", body, {}) for body in (b"", b"no array", HUGE, POSTERIORS[:-1], npy("{'descr"))],
        ("encode", b"PK\x05\x06" + b"\0" * 18, {}),
        ("encode", write_npy(np.zeros((2, 3, 4), "U1")), {}),
        ("encode", write_npy(np.zeros((0, 3, 4))), {}),
        ("encode", write_npy(np.zeros((2, 4, 4))), {}),
        ("encode", write_npy(np.zeros(2)), {}),
        ("encode", POSTERIORS, {"x_seed": "soon"}),
        ("reconstruct", IMAGES.replace(b"(3, ", b"(2, "), {}),
        ("reconstruct", write_npy(np.zeros(())), {}),
        ("decode", IMAGES.replace(b"(3, ", b"(1, "), {}),
        ("sample", IMAGES, {}),
        ("sample", IMAGES, {"x_seed": ""}),
        ("sample", IMAGES.replace(b"(3, ", b"(2, "), {"x_seed": "1"}),
        *[("score", body, {}) for body in (b"", b"[]", b"{}", b'{"scores": []}', b"[" * 100_000)],
        ("score", b'{"scores": [{}, {}, {}]}', {}),
        ("score", b'{"scores": [{"kl": 1}, {"kl": 1}]}', {}),
        ("score", b'{"scores": [{"kl": 1}, {"elbo": 1}, {}]}', {}),
        *[("model", body, {}) for body in (b"[]", b"null", b"{", b"\xff")],
    ],
)  # fmt: skip
def test_a_response_that_cannot_be_read_is_a_problem(call: str, body: bytes, headers: dict[str, str]) -> None:
    arguments: dict[str, Any] = {"decode": [np.zeros((3, 4))], "sample": [3], "model": []}
    expected = "a JSON object" if call == "model" else "3 items"
    with answering(body, content_type="text/x", **headers) as client, pytest.raises(Problem) as caught:
        getattr(client, call)(*arguments.get(call, [GREY]))
    assert caught.value.status == 200
    assert re.search(
        rf"^200 Unreadable response: \w+ http://vae/{call}\S*: expected {expected} .*, got {len(body)} bytes of text/x",
        str(caught.value),
    )


def busy(most: int, sizes: list[int]) -> Starlette:
    """A service that answers 504 to more images than some."""

    async def answer(request: Request) -> Response:
        images = np.load(io.BytesIO(await request.body()))
        sizes.append(len(images))
        if len(images) > most:
            if (seconds := float(request.headers["x-request-timeout"])) <= 1:
                await asyncio.sleep(seconds)
            return Response(b'{"title": "Deadline exceeded"}', 504, media_type=PROBLEM)
        if request.url.path == "/encode":
            return Response(write_npy(np.zeros((3, len(images), 4))), headers={"x-seed": "1"})
        return JSONResponse({"scores": [{"elbo": float(image.max())} for image in images]})

    return Starlette(routes=[Route("/{path:path}", answer, methods=["POST"])])


@pytest.mark.anyio
async def test_a_request_that_took_a_busy_service_too_long_is_sent_as_halves() -> None:
    images, sizes = np.arange(6, dtype=np.uint8).repeat(64).reshape(6, 8, 8), []
    with on_a_socket(busy(2, sizes)) as address, Client(address) as client:
        np.testing.assert_array_equal(client.score(images).elbo, range(6))
        assert sizes == [6, 3, 1, 2, 3, 1, 2]
        async with AsyncClient(address) as other:
            np.testing.assert_array_equal((await other.score(images, seed=5)).elbo, range(6))
        sizes.clear()
        with pytest.raises(Problem, match="504"):  # its draws would depend on the load
            client.encode(images, samples=1, seed=5)
        with pytest.raises(Problem, match="504"):
            client.score(images, timeout=1)
        assert sizes == [6, 6]


def test_a_single_image_that_takes_a_service_too_long_is_a_problem() -> None:
    with on_a_socket(busy(0, [])) as address, Client(address) as client, pytest.raises(Problem, match="504"):
        client.score(GREY)


def test_an_interpolation_has_its_steps() -> None:
    with answering(IMAGES) as client:
        assert client.interpolate(GREY[:2], steps=3).shape == (3, 8, 8, 1)
        with pytest.raises(Problem, match=r"expected 4 items .*: ValueError: .* got an array \[3,"):
            client.interpolate(GREY[:2], steps=4)
