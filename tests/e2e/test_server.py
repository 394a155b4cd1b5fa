"""The real process on a real socket: batching, draining, reloading, a lost device, and errors at the start."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.codecs.images import write_npy
from model.checkpoint import write_checkpoint
from tests.support.live_server import LATENT, SERVE, SEVERE, Service, finish_request, python, serving
from tests.support.models import DIGITS, build, write

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}
DECODE = b"POST /decode HTTP/1.1\r\nHost: vae\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(LATENT),
    LATENT,
)
MAX_CONNECTIONS = 70


@pytest.fixture(scope="module")
async def folder(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("server") / "served", DIGITS)


@pytest.fixture(scope="module")
async def service(folder) -> AsyncIterator[Service]:
    async with serving(folder, max_batch_delay_ms=50, max_connections=MAX_CONNECTIONS) as running:
        yield running


async def test_concurrent_requests_share_batches(service):
    before = await service.count("vae_batches_total", operation="decode")
    answers = await asyncio.gather(*(service.client.post("/decode", content=LATENT, headers=JSON) for _ in range(64)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert before < await service.count("vae_batches_total", operation="decode") < before + 64


async def test_a_connection_over_the_limit_gets_a_problem_while_all_others_have_a_request_in_flight(service):
    async def get(path: str) -> tuple[int, dict, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(b"GET %s HTTP/1.1\r\nHost: vae\r\n\r\n" % path.encode())
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
        headers = dict(line.split(": ", 1) for line in lines if line)
        body = await reader.readexactly(int(headers["content-length"]))
        writer.close()
        return int(status.split()[1]), headers, body

    assert {(await get("/model"))[0] for _ in range(MAX_CONNECTIONS + 1)} == {200}
    in_flight = [await service.begin_request() for _ in range(MAX_CONNECTIONS)]
    status, headers, body = await get("/model")
    assert (status, headers["content-type"], headers["connection"]) == (503, "application/problem+json", "close")
    assert json.loads(body)["detail"] == f"more than the {MAX_CONNECTIONS} connections allowed are open"
    assert (await get("/livez"))[0] == 200
    for request in in_flight:
        assert await finish_request(*request) == b"HTTP/1.1 200 OK\r\n"
    await service.wait_for_status(200, "/model")


async def test_sighup_reloads_the_model_and_keeps_it_where_the_folder_holds_no_usable_one(service, folder):
    async def served() -> str:
        return (await service.request("/model")).json()["model"]

    first = await served()
    write_checkpoint(folder, DIGITS, build(DIGITS, 1).state_dict())
    service.process.send_signal(signal.SIGHUP)
    while (second := await served()) == first:
        await asyncio.sleep(0.01)
    (folder / "model.safetensors").write_bytes(b"no weights")
    service.process.send_signal(signal.SIGHUP)
    await service.wait_for_count("vae_reloads_total", 1, outcome="failed")
    assert await served() == second
    assert (await service.request("/sample?n=1")).headers["X-Model"] == second


async def test_accepted_requests_are_answered_and_new_ones_refused_during_a_drain(digits_model):
    async with serving(digits_model, max_batch_delay_ms=50) as service:
        reader, writer = await service.begin_request()
        service.process.send_signal(signal.SIGTERM)
        await service.wait_for_status(503)
        await asyncio.sleep(0.5)  # several ticks of the server's clock
        async with httpx.AsyncClient(base_url=service.client.base_url) as newcomer:
            refused = await newcomer.post("/decode", content=LATENT, headers=JSON)
        assert (refused.status_code, refused.json()["detail"]) == (503, "the service is draining")
        assert refused.headers["Retry-After"]
        assert await service.status("/livez") == 200
        assert await finish_request(reader, writer) == b"HTTP/1.1 200 OK\r\n"
        assert await service.wait() == 0
        assert await service.messages(*SEVERE) == []
        records = [record for record in await service.records() if record["message"].startswith("POST /decode")]
        assert [record["status"] for record in records[-2:]] == [503, 200]


@pytest.fixture(scope="module")
async def patient(digits_model) -> AsyncIterator[Service]:
    """A service in which a single request waits long for others to share its batch."""
    options = {"graceful_timeout_s": 600, "request_timeout_s": 600, "max_batch_delay_ms": 10_000}
    async with serving(digits_model, **options) as running:
        yield running


@pytest.mark.parametrize("half_closed_first", [False, True])
async def test_the_work_for_a_client_that_closes_the_connection_is_cancelled(patient, half_closed_first):
    cancelled = {"endpoint": "/decode", "status": "499"}
    before = await patient.count("vae_requests_total", **cancelled)
    _, writer = await asyncio.open_connection("127.0.0.1", patient.port)
    writer.write(DECODE)
    await patient.wait_for_count("vae_queue_items", 1)
    if half_closed_first:
        writer.write_eof()
    writer.transport.abort()
    await patient.wait_for_count("vae_queue_items", 0)
    await patient.wait_for_count("vae_requests_total", before + 1, **cancelled)


async def test_a_second_signal_cancels_all_requests_logs_their_number_and_exits_with_1(patient):
    reader, writer = await patient.begin_request()
    waiting = asyncio.create_task(patient.client.get("/sample?n=1"))
    await patient.wait_for_count("vae_queue_items", 1)
    patient.process.send_signal(signal.SIGINT)
    await patient.wait_for_status(503)
    patient.process.send_signal(signal.SIGTERM)
    assert await patient.wait() == 1
    assert await reader.readline() == b"HTTP/1.1 503 Service Unavailable\r\n"
    assert (await waiting).status_code == 503
    writer.close()
    assert await patient.messages(*SEVERE) == ["requests cancelled at shutdown: 2"]


async def test_a_request_that_is_left_after_the_graceful_timeout_is_cancelled_and_the_exit_code_is_1(digits_model):
    async with serving(digits_model, graceful_timeout_s=0.2, request_timeout_s=600) as service:
        reader, writer = await service.begin_request()
        service.process.send_signal(signal.SIGTERM)
        assert await service.wait() == 1
        assert await reader.readline() == b"HTTP/1.1 503 Service Unavailable\r\n"
        writer.close()
        assert await service.messages(*SEVERE) == ["requests cancelled at shutdown: 1"]


BUSY = SERVE.replace(
    "serve(settings)",
    """
import asyncio, time
from functools import partial
from app.inference.threads import run_in_own_thread
from app.server.listener import Listener
from app.server.server import Server, run
class Busy(Server):
    exit_deadline_seconds = 1.5
    async def startup(self, sockets=None):
        await super().startup(sockets)
        for _ in range(64):
            asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)
        self.reload = asyncio.create_task(run_in_own_thread(partial(time.sleep, 600)))
run(Busy(settings, Listener(settings.host, settings.port)))
""",
)
"""A service in which all codec threads and a reload are blocked."""


@pytest.mark.parametrize("in_flight", [True, False])
async def test_blocked_threads_do_not_delay_the_exit(in_flight, digits_model):
    async with serving(digits_model, program=BUSY, graceful_timeout_s=0.2) as service:
        reader, writer = await service.begin_request() if in_flight else (None, None)
        service.process.send_signal(signal.SIGTERM)
        assert await service.wait() == int(in_flight)
        assert (await service.messages(*SEVERE))[-1] == "exiting although threads are still running"
        if in_flight:
            assert await reader.readline() == b"HTTP/1.1 503 Service Unavailable\r\n"
            writer.close()


LOSING = SERVE.replace(
    "serve(settings)",
    """
from app.batching.executor import DeviceLost
from app.server.listener import Listener
from app.server.server import Server, run
def lose(module, arguments):
    if arguments[0].min() == 1:
        raise DeviceLost("as after an illegal access")
class BriefServer(Server):
    probe_grace_seconds = 3
server = BriefServer(settings, Listener(settings.host, settings.port))
server.services.engine.loaded_model.device_model.compiled.model.vae.encoder.register_forward_pre_hook(lose)
run(server)
""",
)
"""A service that loses its device when a batch begins with a white image."""


async def test_liveness_fails_after_the_device_was_lost_and_the_process_exits_with_1(digits_model):
    white = write_npy(np.full((1, 8, 8), 255, np.uint8))
    async with serving(digits_model, program=LOSING, runtime="torch") as service:
        response = await service.client.post("/encode", content=white, headers={"content-type": "application/x-npy"})
        assert (response.status_code, response.json()["detail"]) == (503, "the device has stopped")
        await service.wait_for_status(503, "/livez")
        decode = service.client.post("/decode", content=LATENT, headers=JSON)
        ready, decoded = await asyncio.gather(service.status(), decode)
        assert (ready, decoded.status_code) == (503, 503)
        assert await service.wait() == 1


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_missing_model_is_reported_in_one_line(workers):
    options = ("--model", "nowhere", "--port", "0", "--workers", workers, "--log-level", "error")
    process = await python("-c", "from app.cli import main; main()", "serve", *options)
    _, log = await process.communicate()
    assert process.returncode == 2
    assert log == b"vae: nowhere: no such folder; expected a model folder with config.json and model.safetensors\n"
