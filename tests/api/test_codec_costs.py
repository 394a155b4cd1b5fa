"""Costs of codec work: bytes of files, pixels and compressed metadata decide whether it runs in a thread."""

import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image

from app.api.endpoint import MAX_INLINE_BYTES, EndpointRequest
from app.api.query import ImagesQuery
from app.api.request_bodies import read_images
from app.codecs.media_types import JSON
from app.codecs.png import write_png
from app.codecs.png_reader import MAX_UNPACKED_TEXT
from app.codecs.threads import LARGE, CodecThreads
from app.context import Operation, RequestContext
from app.main import create_app
from app.settings import Settings
from tests.support.apps import running
from tests.support.image_files import chunk, stored

pytestmark = pytest.mark.anyio

T = TypeVar("T")
SMALL = write_png(np.zeros((1, 1, 1), np.uint8))
TEXTS = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(2**18)))
TEXTS += chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(2**18)))
DESCRIBED = SMALL[:33] + TEXTS + SMALL[33:]


class RecordingThreads(CodecThreads):
    """Codec threads that record the costs of their jobs."""

    def __init__(self) -> None:
        super().__init__(2)
        self.costs: list[int] = []

    async def run(self, cost: int, work: Callable[[], T]) -> T:
        self.costs.append(cost)
        return await super().run(cost, work)


@pytest.fixture(scope="module")
async def costs_of(digits_model, device):
    """A function that reads images of a multipart body, and returns the costs of the jobs on codec threads."""
    app = create_app(Settings(model=digits_model, device=device, threads=1))

    async def read(files: list[bytes]) -> list[int]:
        head = b'--cut\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
        body = b"".join(head + file + b"\r\n" for file in files) + b"--cut--\r\n"
        headers = {b"content-type": b"multipart/form-data; boundary=cut"}
        context = RequestContext("id", time.monotonic() + 60, headers=headers)
        threads = RecordingThreads()

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": body, "more_body": False}

        services = replace(app.state.services, codec_threads=threads)
        request = EndpointRequest(services, context, JSON, receive)
        pixels = await read_images(request, request.model(), ImagesQuery(), Operation.ENCODE)
        threads.close()
        assert len(pixels) == len(files)
        return threads.costs

    async with running(app):
        yield read


@pytest.mark.parametrize("files", [[SMALL], [SMALL] * 9, [DESCRIBED]])
async def test_a_few_small_files_are_read_on_the_event_loop(costs_of, files):
    assert await costs_of(files) == []


@pytest.mark.parametrize("files", [[SMALL + bytes(2**17)], [SMALL] * 200])
async def test_large_files_and_many_files_are_read_in_threads_even_with_few_pixels(costs_of, files):
    costs = await costs_of(files)
    assert costs
    assert min(costs) > MAX_INLINE_BYTES


async def test_files_with_compressed_metadata_are_decoded_in_a_thread(costs_of):
    (decoding,) = await costs_of([DESCRIBED] * 4)
    assert decoding > 4 * 2 * MAX_UNPACKED_TEXT


async def test_many_large_images_of_one_request_are_decoded_in_many_jobs(costs_of):
    photo = stored(Image.effect_noise((1024, 1024), 9), "JPEG")
    costs = await costs_of([photo] * 6)
    assert len({*costs[-6:]}) == 1
    assert 2**20 + len(photo) <= costs[-1] < LARGE
