"""Responses of a real server have the same bytes alone and under load, with a seed and where batches are invariant."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import numpy as np
import pytest

from app.codecs.images import write_npy
from app.codecs.png import write_png
from app.runtimes.selection import mnn_is_installed
from tests.support.in_thread_server import listening

pytestmark = pytest.mark.anyio

NPY, PNG, JSON = ({"content-type": kind} for kind in ("application/x-npy", "image/png", "application/json"))
SendRequest = Callable[[httpx.AsyncClient], "asyncio.Future[httpx.Response]"]


def post(path: str, content: bytes, headers: dict[str, str]) -> SendRequest:
    return lambda client: client.post(path, content=content, headers=headers)


@pytest.fixture(scope="module", params=["digits", "colour"])
def model(request, digits_model, colour_model):
    return {"digits": digits_model, "colour": colour_model}[request.param]


@pytest.fixture(scope="module")
def images(model):
    shape = json.loads((model / "config.json").read_text())["image_shape"]
    return np.random.default_rng(0).integers(0, 256, (60, shape[1], shape[2], shape[0]), np.uint8)


@pytest.fixture(scope="module")
def latents(model):
    shape = json.loads((model / "config.json").read_text())["latent_shape"]
    return np.random.default_rng(1).standard_normal((60, *shape)).round(3)


def drawn(images) -> list[SendRequest]:
    files = [write_npy(images[:n]) for n in (1, 2, 5)]
    posts = ["/encode?samples=2&seed=1", "/reconstruct?seed=2", "/score?seed=3", "/score?samples=3&seed=4"]
    gets = [(lambda client, n=n: client.get(f"/sample?n={n}&seed={n}")) for n in (1, 2, 9)]
    return [post(path, file, NPY) for path in posts for file in files] + gets


def undrawn(images, latents) -> list[SendRequest]:
    requests = [post(path, write_npy(images[n : n + k]), NPY) for path in ("/encode", "/reconstruct") for n, k in CUTS]
    requests += [
        post(path, write_png(images[n].transpose(2, 0, 1)), PNG) for path in ("/encode", "/reconstruct") for n in (0, 7)
    ]
    return requests + [
        post("/decode", json.dumps({"latents": latents[n : n + k].tolist()}).encode(), JSON) for n, k in CUTS
    ]


MODES = {
    "as it ships": {},
    **({"by mnn": {"runtime": "mnn", "device": "cpu"}} if mnn_is_installed() else {}),
    "batch-invariant": {"batch_invariant": True},
    "batch-invariant by torch": {"batch_invariant": True, "runtime": "torch"},
}
CUTS = [(0, 1), (1, 1), (2, 1), (3, 2), (5, 3), (8, 7), (15, 17)]


async def answers(client: httpx.AsyncClient, requests: list[SendRequest]) -> list[bytes]:
    found = await asyncio.gather(*(request_function(client) for request_function in requests))
    assert {answer.status_code for answer in found} == {200}
    return [answer.content for answer in found]


@asynccontextmanager
async def served(model, device, mode) -> AsyncIterator[httpx.AsyncClient]:
    with listening(**{"model": model, "device": device, "threads": 1, "max_batch_size": 16, **mode}) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            while (await client.get("/readyz")).status_code != 200:  # a thread sets no asyncio.Event
                await asyncio.sleep(0.01)
            yield client


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
async def test_responses_do_not_depend_on_the_load(model, device, images, latents, mode):
    others = undrawn(images, latents)
    async with served(model, device, mode) as client:
        invariant = (await client.get("/model")).json()["batch_invariant"]
        assert invariant == (mode.get("runtime") != "mnn" and (device == "cpu" or "batch_invariant" in mode))
        requests = drawn(images) + (undrawn(images, latents) if invariant else [])
        alone = [(await answers(client, [request_function]))[0] for request_function in requests]
        for order in (requests + others, others + requests[::-1], requests[::2] + others + requests[1::2]):
            found = dict(zip(map(id, order), await answers(client, order), strict=True))
            assert [found[id(request_function)] for request_function in requests] == alone
        metrics = (await client.get("/metrics")).text
        sizes = [line for line in metrics.splitlines() if line.startswith("vae_batch_size_sum")]
        counts = [line for line in metrics.splitlines() if line.startswith("vae_batch_size_count")]
        images_done, batches = (sum(float(line.split()[-1]) for line in lines) for lines in (sizes, counts))
        assert images_done > 2 * batches  # requests have shared batches


@pytest.mark.parametrize("mode", [mode for mode in ("batch-invariant", "by mnn") if mode in MODES])
async def test_a_seed_gives_the_same_bytes_in_every_mode(model, device, images, mode):
    requests, found = drawn(images), []
    for settings in ({"device": "cpu"} if mode == "by mnn" else {}, MODES[mode]):
        async with served(model, device, settings) as client:
            found.append(await answers(client, requests))
    assert found[0] == found[1]
