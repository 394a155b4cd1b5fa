"""Failures under load, with every request counted: `make chaos`, about two minutes.

`lost` is a request on an open connection that was never answered.
"""

import asyncio
import json
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load, save

from app.settings import DEFAULT_MODEL
from tests.support.live_server import SERVE, Service, serving
from tests.support.load import NPY, PNG, Connection, for_seconds, format_counts, get, npy, png, post, run_clients

pytestmark = [pytest.mark.anyio, pytest.mark.chaos]

FAILING = SERVE.replace(
    "serve(settings)",
    """
from app.server.listener import Listener
from app.server.server import Server, run
server = Server(settings, Listener(settings.host, settings.port))
def fail(module, arguments):
    if (arguments[0] == 1).flatten(1).all(1).any():
        raise RuntimeError("a white image")
server.services.engine.loaded_model.device_model.compiled.model.vae.encoder.register_forward_pre_hook(fail)
run(server)
""",
)
"""The service with a model that fails for a white image."""

QUIET = {"threads": 0, "log_level": "warning"}
ENCODE = post("/encode", PNG, png())


async def test_single_images_are_answered_while_requests_of_thousands_of_images_are_in_flight(figures):
    counts, waits = Counter[str](), list[float]()
    async with serving(**QUIET) as service:
        large = post("/encode", NPY, npy(4096), Accept=NPY)
        seconds = await seconds_of(service, large, counts)
        others = [asyncio.create_task(seconds_of(service, large, counts)) for _ in range(2)]
        await asyncio.sleep(seconds / 4)
        while not all(task.done() for task in others):
            waits.append(await seconds_of(service, ENCODE, counts))
        await asyncio.gather(*others)
    figures["seconds of a request of 4,096 images"] = seconds
    figures["median and longest wait of a single image"] = f"{np.median(waits):.3f} s, {max(waits):.3f} s"
    assert counts == {"sent": 3 + len(waits), "answered 200": 3 + len(waits)}
    assert np.median(waits) < seconds / 2


async def seconds_of(service: Service, request: bytes, counts: Counter[str]) -> float:
    """The duration of a request on a connection of its own."""
    start = time.monotonic()
    with Connection(service.port) as connection:
        await connection.send_counted(request, counts)
    return time.monotonic() - start


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_drain_under_load_answers_every_request_that_was_sent_before_the_signal(workers, figures):
    before, after = Counter[str](), Counter[str]()
    async with serving(**QUIET, workers=workers) as service:
        signalled = asyncio.Event()

        async def client() -> None:
            with suppress(ConnectionRefusedError), Connection(service.port) as connection:
                while True:
                    await connection.send_counted(ENCODE, after if signalled.is_set() else before)

        background = asyncio.gather(*(client() for _ in range(32)))
        await asyncio.sleep(3)
        signalled.set()
        assert await service.stop() == 0
        await background
    figures["after the signal"] = format_counts(after)
    assert before["answered 200"] > 0
    assert set(before) <= {"sent", "answered 200", "answered 503"}
    assert set(after) <= {"sent", "answered 200", "answered 503", "lost"}  # lost: connected as the last process exited


async def test_clients_of_a_killed_process_notice_at_once_and_the_next_process_serves():
    counts, again = Counter[str](), Counter[str]()
    async with serving(**QUIET) as service:
        background = asyncio.create_task(run_clients(service.port, ENCODE, 32, lambda: True, counts))
        await asyncio.sleep(3)
        await service.stop(signal.SIGKILL)
        async with asyncio.timeout(5):
            await background
    async with serving(**QUIET) as service:
        await run_clients(service.port, ENCODE, 32, for_seconds(2), again)
    assert counts["lost"] <= 64  # one for each client, and one more that reached the backlog
    assert again["sent"] == again["answered 200"] > 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_reloads_under_load_lose_no_request_and_every_response_names_a_served_model(workers, tmp_path):
    counts, models = Counter[str](), Counter[str]()
    folder = tmp_path / "served"
    shutil.copytree(DEFAULT_MODEL, folder)
    weights = (folder / "model.safetensors").read_bytes()
    others = save({key: tensor * 1.01 for key, tensor in load(weights).items()})
    async with serving(folder, **QUIET, workers=workers) as service:

        async def client(going: Callable[[], bool]) -> None:
            with Connection(service.port) as connection:
                while going():
                    answer = await connection.send_counted(ENCODE, counts)
                    models[json.loads(answer.body)["model"] if answer.status == 200 else "none"] += 1

        background = asyncio.gather(*(client(for_seconds(10)) for _ in range(16)))
        for turn in range(18):
            await asyncio.sleep(0.5)
            replace(folder / "model.safetensors", others if turn % 2 == 0 else weights)
            service.process.send_signal(signal.SIGHUP)
        await background
        assert await service.count("vae_reloads_total", outcome="success") > 0
        assert await service.count("vae_reloads_total", outcome="failed") == 0
    assert set(counts) == {"sent", "answered 200"}
    assert len(models) == 2


def replace(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(path)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_thousand_clients_that_disconnect_leave_nothing_behind(workers, figures):
    stayed, left = Counter[str](), Counter[str]()
    requests = [ENCODE, post("/encode", NPY, npy(300)), get("/sample?n=16"), post("/score", NPY, npy(20))]
    async with serving(**QUIET, workers=workers) as service:
        files = await service.count("process_open_fds")

        async def leave(chance: random.Random) -> None:
            await asyncio.sleep(chance.uniform(0, 8))
            request = chance.choice(requests)
            left["sent"] += 1
            with suppress(TimeoutError, OSError), Connection(service.port) as connection:
                async with asyncio.timeout(chance.uniform(0, 0.05)):
                    size = len(request) if chance.random() < 0.7 else chance.randrange(len(request))
                    left["answered in time"] += (await connection.send(request[:size])).status != 0

        background = asyncio.create_task(run_clients(service.port, ENCODE, 16, for_seconds(9), stayed))
        await asyncio.gather(*(leave(random.Random(seed)) for seed in range(1000)))
        await background
        async with asyncio.timeout(20):
            while await is_busy(service, files):
                await asyncio.sleep(0.1)
        figures["disconnects noticed"] = await service.count("vae_requests_total", status="499")
    assert set(stayed) == {"sent", "answered 200"}


async def is_busy(service: Service, files: float) -> bool:
    return await service.count("vae_queue_items") > 0 or await service.count("process_open_fds") > files


async def test_images_for_which_the_model_fails_do_not_fail_the_others_of_their_batch():
    clean, failing = Counter[str](), Counter[str]()
    async with serving(program=FAILING, runtime="torch", threads=0, log_level="error") as service:
        bad = post("/encode", PNG, png(255))
        await asyncio.gather(
            run_clients(service.port, ENCODE, 38, for_seconds(5), clean),
            run_clients(service.port, bad, 2, for_seconds(5), failing),
        )
        assert await service.status("/livez") == 200
    assert set(clean) == {"sent", "answered 200"}
    assert set(failing) == {"sent", "answered 500"}
