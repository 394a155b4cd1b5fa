"""Requests and responses in a content coding, through the whole application."""

import gzip
import io
import zlib
from functools import partial

import httpx
import numpy as np
import pytest

from app.codecs.compression import zstd
from app.codecs.images import write_npy
from app.codecs.png import write_png
from app.main import create_app
from app.settings import Settings
from tests.support.apps import running

pytestmark = pytest.mark.anyio

GZIP = partial(gzip.compress, mtime=0)  # else names of tests would have the time
WRITERS = {"gzip": GZIP, "deflate": zlib.compress, "zstd": zstd.compress}
CODINGS = pytest.mark.parametrize("coding", WRITERS)


async def post(client: httpx.AsyncClient, path: str, content: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(path, content=content, headers={"Accept-Encoding": "identity", **named})


@CODINGS
async def test_a_compressed_request_has_the_answer_of_the_plain_one(client, digits, coding):
    for body in (write_npy(digits[:3, 0]), write_png(digits[0])):
        plain = await post(client, "/encode", body)
        packed = await post(client, "/encode", WRITERS[coding](body), Content_Encoding=coding.upper())
        assert (packed.status_code, packed.content) == (200, plain.content)
    latents = b'{"latents": [[0.5, -1, 0, 2]]}'
    packed = await post(client, "/decode", WRITERS[coding](latents), Content_Encoding=coding)
    assert packed.content == (await post(client, "/decode", latents)).content


@CODINGS
async def test_a_bomb_gets_413_and_its_room_is_free_again(digits_model, coding):
    app = create_app(Settings(model=digits_model, device="cpu", threads=1, max_body_bytes=2**20))
    async with running(app) as client:
        for _ in range(40):
            answer = await post(client, "/encode", WRITERS[coding](bytes(2**22)), Content_Encoding=coding)
            assert answer.status_code == 413
            assert "more than the 1048576 bytes allowed when it is decompressed" in answer.json()["detail"]
        assert app.state.services.budget.body_bytes == 0


@pytest.mark.parametrize(
    ("coding", "body", "status", "sentence"),
    [
        ("gzip", b"no gzip", 400, "the body is not gzip that can be read: "),
        ("zstd", GZIP(b"x"), 400, "the body is not zstd that can be read: "),
        ("deflate", b"\x78\x9c", 400, "the body is not deflate that can be read: it ends before its data do"),
        ("gzip", GZIP(b""), 400, "the body is empty; expected "),
        ("gzip", GZIP(b"garbage"), 415, "expected PNG, "),
        ("br", b"x", 415, "expected a body without a content encoding, or in gzip, x-gzip, deflate, zstd, got 'br'"),
        ("gzip, gzip", b"x", 415, "got 'gzip, gzip'"),
    ],
)
async def test_other_compressed_bodies_are_refused(client, coding, body, status, sentence):
    answer = await post(client, "/encode", body, Content_Encoding=coding)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert sentence in answer.json()["detail"]
    assert ("accept-encoding" in answer.headers) == (sentence.startswith("expected a body") or "gzip, gzip" in sentence)


async def test_repeated_codings_are_the_list_of_them(client, digits):
    twice = [("Content-Encoding", "gzip"), ("Content-Encoding", "gzip")]
    answer = await client.post("/encode", content=gzip.compress(write_png(digits[0])), headers=twice)
    assert answer.status_code == 415
    assert "got 'gzip,gzip'" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/sample?n=1", "/v2/repository/index"])
async def test_a_body_of_parameters_has_at_most_64_kib_also_when_it_is_decompressed(client, path):
    limit = 65_536
    fits, over = (b"{" + b" " * (size - 2) + b"}" for size in (limit, limit + 1))
    for write, headers in ((bytes, {}), (gzip.compress, {"Content-Encoding": "gzip"})):
        assert (await post(client, path, write(fits), **headers)).status_code == 200
        answer = await post(client, path, write(over), **headers)
        assert answer.status_code == 413
        assert "the 65536 bytes allowed" in answer.text


@pytest.mark.parametrize(("accept", "coding"), [("gzip, deflate", "gzip"), ("gzip, zstd", "zstd")])
async def test_json_is_compressed_on_request(client, digits, accept, coding):
    body = write_npy(digits[:300, 0])
    plain = await post(client, "/encode", body)
    async with client.stream("POST", "/encode", content=body, headers={"Accept-Encoding": accept}) as answer:
        raw = b"".join([piece async for piece in answer.aiter_raw()])
    assert (answer.headers["content-encoding"], answer.headers["vary"]) == (coding, "accept-encoding")
    assert int(answer.headers["content-length"]) == len(raw) < 0.6 * len(plain.content)
    unpacked = gzip.decompress(raw) if coding == "gzip" else zstd.decompress(raw)
    assert unpacked == plain.content


async def test_arrays_of_images_are_compressed_and_small_or_dense_responses_are_not(client, digits):
    headers = {"Accept": "application/x-npy", "Accept-Encoding": "gzip"}
    images = await client.get("/sample?n=1024&temperature=0", headers=headers)
    assert images.headers["content-encoding"] == "gzip"
    assert np.load(io.BytesIO(images.content)).shape == (1024, 8, 8, 1)
    latents = await client.post("/encode", content=write_npy(np.tile(digits[:300, 0], (8, 1, 1))), headers=headers)
    assert len(latents.content) > 2**14
    for other in (
        await client.get("/sample?n=4", headers=headers),
        await client.get("/sample?n=1024", headers={**headers, "Accept": "image/png"}),
        await client.get("/model", headers=headers),
    ):
        assert "content-encoding" not in other.headers
