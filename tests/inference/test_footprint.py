"""The memory of a request is bounded, estimated before any computation, and summed over all requests in flight."""

import asyncio
import base64
import io
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.responses import PNG, write_images
from app.codecs.images import write_npy
from app.codecs.media_types import JSON, NPY
from app.codecs.png import write_png
from app.context import RequestContext
from app.errors import DeadlineExceeded
from app.http.budget import MAX_REQUESTS_IN_MEMORY
from app.inference.footprint import Footprint, of_decode, of_deviations, of_encode, of_reconstruct, of_score
from app.main import create_app
from app.settings import Settings
from model.formats.native import model_of
from model.vae import VAE
from tests.support.apps import running, until
from tests.support.in_thread_server import on_a_socket
from tests.support.models import DIGITS, LARGE, write

pytestmark = pytest.mark.anyio

DIGITS_SPEC, LARGE_SPEC = (model_of(VAE(config)).spec for config in (DIGITS, LARGE))

counts = st.integers(1, 5000)


def number(sentence: str, before: str) -> int:
    return int(sentence.partition(before)[2].split()[0])


@given(st.builds(Footprint, st.integers(1, 10**6), st.integers(1, 10**6)), counts, st.integers(0, 5000), counts)
def test_an_error_names_the_largest_number_that_would_fit(footprint, count, draws, kibibytes):
    limit = kibibytes * 1024

    def size(count: int, draws: int) -> int:
        return count * (footprint.item + draws * footprint.draw)

    if size(count, draws) > limit:
        detail = footprint.excess(count, draws, limit, "images").detail
        assert detail.startswith(f"images: {count} image")
        assert f"into the {limit} allowed" in detail
        if "draws each fit" in detail:
            most = number(detail, "at most ")
            assert size(count, most) <= limit
            assert (footprint.item + (most + 1) * footprint.draw) * count > limit
        elif "at most" in detail:
            most = number(detail, "at most ")
            assert size(most, draws) <= limit
            assert (footprint.item + draws * footprint.draw) * (most + 1) > limit
        else:
            assert footprint.item + draws * footprint.draw > limit
            assert "not even one fits" in detail


@pytest.mark.parametrize("as_json", [False, True])
def test_a_json_response_takes_more_memory_than_an_array(as_json):
    assert of_encode(LARGE_SPEC, as_json=True).draw > of_encode(LARGE_SPEC, as_json=False).draw
    assert of_decode(LARGE_SPEC, as_json=True).item > of_decode(LARGE_SPEC, as_json=False).item


LIMIT = 100 * of_decode(DIGITS_SPEC, as_json=False).item


@pytest.fixture(scope="module")
async def small(serve):
    async with serve(max_memory_bytes=LIMIT) as client:
        yield client


async def refused(request, name: str) -> str:
    answer = await request
    assert (answer.status_code, answer.json()["title"]) == (413, "Too large"), answer.text
    assert answer.json()["detail"].startswith(f"{name}: "), answer.text
    return answer.json()["detail"]


async def test_sampling_is_limited_by_memory(small):
    assert (await small.get("/sample?n=100")).status_code == 200
    detail = await refused(small.get("/sample?n=101"), "n")
    assert (
        detail == f"n: 101 images take {LIMIT + LIMIT // 100} bytes of memory; at most 100 fit into the {LIMIT} allowed"
    )
    json = {"Accept": "application/json"}
    most = number(await refused(small.get("/sample?n=100", headers=json), "n"), "at most ")
    assert (await small.get(f"/sample?n={most}", headers=json)).status_code == 200


async def test_latents_are_limited_by_the_memory_of_their_images(small):
    body = write_npy(np.zeros((101, 4), np.float32))
    detail = await refused(small.post("/decode", content=body, headers={"content-type": NPY}), "latents")
    assert "at most 100 fit" in detail


def bodies(count: int):
    """The same images as an array, as parts and as JSON: one pixel each, which becomes an image of the model's size."""
    dot = write_png(np.zeros((1, 1, 1), np.uint8))
    text = base64.b64encode(dot).decode()
    return {
        "npy": {"content": write_npy(np.zeros((count, 1, 1), np.uint8)), "headers": {"content-type": NPY}},
        "multipart": {"files": [("images", (str(n), dot)) for n in range(count)]},
        "json": {"json": {"images": [text] * count}},
    }


@pytest.mark.parametrize("form", ["npy", "multipart", "json"])
@pytest.mark.parametrize(
    ("path", "footprint"),
    [
        ("/encode", of_encode(DIGITS_SPEC, as_json=True)),
        ("/reconstruct", of_reconstruct(DIGITS_SPEC, as_json=False)),
        ("/reconstruct?output=error", of_deviations(DIGITS_SPEC, as_json=False)),
        ("/score", of_score(DIGITS_SPEC)),
    ],
)
async def test_images_are_limited_by_their_decoded_size_before_they_are_decoded(small, path, footprint, form):
    most = LIMIT // (footprint.item + (footprint.draw if path == "/score" else 0))
    assert (await small.post(path, **bodies(most)[form])).status_code == 200
    assert f"at most {most} fit" in await refused(small.post(path, **bodies(most + 1)[form]), "images")


@pytest.mark.parametrize("path", ["/encode", "/score"])
async def test_draws_are_limited_by_their_memory(small, path):
    body = bodies(2)["npy"]
    most = number(await refused(small.post(f"{path}?samples=2000", **body), "images"), "at most ")
    assert (await small.post(f"{path}?samples={most}", **body)).status_code == 200
    await refused(small.post(f"{path}?samples={most + 1}", **body), "images")


async def test_concurrent_large_requests_are_refused_and_small_ones_are_not(digits_model, device):
    waiting = {"max_batch_size": 1024, "max_batch_delay_ms": 10_000, "request_timeout_s": 60, "max_memory_bytes": LIMIT}
    app = create_app(Settings(model=digits_model, device=device, threads=1, **waiting))
    async with running(app) as client:
        budget = app.state.services.budget
        large = [asyncio.create_task(client.get("/sample?n=63")) for _ in range(3)]
        await until(lambda: budget.reserved_bytes == 3 * 63 * LIMIT // 100)
        refused = await client.get("/sample?n=63")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert f"more than {MAX_REQUESTS_IN_MEMORY * LIMIT} bytes of memory together" in refused.json()["detail"]
        one = asyncio.create_task(client.get("/sample?n=1"))
        await until(lambda: budget.reserved_bytes == (3 * 63 + 1) * LIMIT // 100)
        for task in (*large, one):
            task.cancel()
        await asyncio.gather(*large, one, return_exceptions=True)
        await until(lambda: budget.reserved_bytes == 0)


async def test_a_response_counts_until_the_client_has_read_it(tmp_path):
    app = create_app(Settings(model=write(tmp_path / "large", LARGE), device="cpu", threads=1, max_batch_size=8))
    with on_a_socket(app) as url:
        await until(lambda: app.state.services.engine.ready)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]), limit=2**16)
        writer.write(b"GET /sample?n=100 HTTP/1.1\r\nHost: vae\r\nAccept: application/x-npy\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].split()[0])
        assert size > 100 * 3 * 256 * 256
        assert app.state.services.budget.reserved_bytes == size
        await reader.readexactly(size)
        await until(lambda: app.state.services.budget.reserved_bytes == 0)
        writer.close()


@pytest.mark.parametrize("media", [JSON, NPY, PNG])
def test_large_responses_have_the_same_content_as_small_ones(media, digits):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 128, 128), np.uint8)
    small = write_images(RequestContext("id", time.monotonic() + 60), media, pixels, 5)
    if media == NPY:
        assert small == write_npy(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)))
        flat = np.load(io.BytesIO(small))
        assert np.array_equal(flat.transpose(0, 3, 1, 2), pixels)
    elif media == JSON:
        texts = [base64.b64encode(write_png(image)).decode() for image in pixels]
        assert small.decode() == '{"images":["' + '","'.join(texts) + '"]}'
    else:
        assert small.startswith(b"\x89PNG")


@pytest.mark.parametrize("media", [JSON, NPY, PNG])
def test_writing_a_response_ends_at_the_deadline(media):
    pixels = np.zeros((50, 3, 8, 8), np.uint8)
    context = RequestContext("id", time.monotonic())
    with pytest.raises(DeadlineExceeded):
        write_images(context, media, pixels, None)
