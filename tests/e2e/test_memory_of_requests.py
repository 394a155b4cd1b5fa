"""The memory of a real server under requests for more pixels than the limit allows, and under compressed bodies."""

import asyncio
import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from app.codecs.png import write_png
from app.http.budget import MAX_BODIES_IN_FLIGHT
from app.inference.footprint import of_decode, of_encode
from model.formats.native import model_of
from model.vae import VAE
from tests.support.live_server import SERVE, serving
from tests.support.models import DIGITS, LARGE, write

pytestmark = pytest.mark.anyio

LIMIT = 2**24

BODY = 2**23


def reset_peak(process: int) -> None:
    Path(f"/proc/{process}/clear_refs").write_text("5")


def mebibytes(process: int, field: str) -> int:
    return int(re.search(rf"{field}:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1]) // 1024


async def test_a_server_takes_no_more_memory_for_requests_than_the_limit(tmp_path):
    model = write(tmp_path / "large", LARGE)
    most = LIMIT // of_decode(model_of(VAE(LARGE)).spec, as_json=False).item
    async with serving(model, max_memory_bytes=LIMIT, max_batch_size=4) as service:
        process = service.process.pid
        await service.client.get("/sample?n=4")
        reset_peak(process)
        before = mebibytes(process, "VmRSS")
        refused = await service.client.get("/sample?n=4096")
        assert (refused.status_code, f"at most {most} fit" in refused.json()["detail"]) == (413, True)
        dot = write_png(np.zeros((1, 1, 1), np.uint8))  # 70 bytes, which become 192 KiB
        files = [("images", (str(n), dot)) for n in range(1000)]
        refused = await service.client.post("/encode", files=files)
        fit = LIMIT // of_encode(model_of(VAE(LARGE)).spec, as_json=True).item
        assert (refused.status_code, f"at most {fit} fit" in refused.json()["detail"]) == (413, True)
        answers = await asyncio.gather(*(service.client.get(f"/sample?n={most}") for _ in range(4)))
        assert {answer.status_code for answer in answers} <= {200, 503}
        assert 200 in {answer.status_code for answer in answers}
        assert mebibytes(process, "VmHWM") - before < 100  # two of them, and what a batch takes; 4096 images take 800


@pytest.mark.parametrize(
    "path", ["/encode", "/decode", "/diffusers/encode?shape=2048&shape=1&shape=64&shape=64&dtype=uint8"]
)
async def test_a_server_holds_decompressed_bodies_no_longer_than_their_requests(tmp_path, path):
    bodies = MAX_BODIES_IN_FLIGHT * BODY
    bomb = gzip.compress(bytes(BODY))
    without_collection = SERVE.replace("serve(settings)", "import gc; gc.disable(); serve(settings)")
    async with serving(write(tmp_path / "digits", DIGITS), without_collection, max_body_bytes=BODY) as service:
        process = service.process.pid
        reset_peak(process)
        before = mebibytes(process, "VmRSS")
        for _ in range(3):
            requests = (
                service.client.post(path, content=bomb, headers={"Content-Encoding": "gzip"}) for _ in range(20)
            )
            assert {answer.status_code for answer in await asyncio.gather(*requests)} <= {200, 415, 503}
        assert mebibytes(process, "VmHWM") - before < 1.75 * bodies // 2**20  # 3.5 times if errors keep them
        assert mebibytes(process, "VmRSS") - before < 0.75 * bodies // 2**20
