"""The real process on a real socket: it shares batches, drains when it is told to end, and says why it cannot start."""

import asyncio
import json
import re
import signal

import httpx
import numpy as np
import pytest

from app.codecs.images import write_npy
from model.checkpoint import write_checkpoint
from tests.support.live_server import LATENT, SERVE, python, serving, warnings_of
from tests.support.models import DIGITS, build, write
from tests.support.two_workers import rest

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}


async def test_many_callers_share_batches_and_are_all_answered_when_the_process_is_told_to_end(digits_model):
    async with serving(digits_model, max_batch_delay_ms=50) as it:
        answers = await asyncio.gather(*(it.client.post("/decode", content=LATENT, headers=JSON) for _ in range(64)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        metrics = (await it.client.get("/metrics")).text
        batches = re.findall(r'vae_batches_total\{.*operation="decode"\} (\d+)', metrics)
        assert 0 < sum(map(int, batches)) < 64

        reader, writer = await it.half_a_request()
        it.process.send_signal(signal.SIGTERM)
        await it.becomes(503)
        await asyncio.sleep(0.5)  # several ticks of the server's clock
        async with httpx.AsyncClient(base_url=it.client.base_url) as newcomer:
            refused = await newcomer.post("/decode", content=LATENT, headers=JSON)
        assert (refused.status_code, refused.json()["detail"]) == (503, "the service is draining")
        assert refused.headers["Retry-After"]
        assert await it.status("/livez") == 200
        writer.write(LATENT)
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        writer.close()
        assert await it.ended() == 0
        log = [json.loads(line) for line in (await it.log).splitlines()]
        assert not [line for line in log if line["level"] not in ("INFO", "DEBUG")]
        assert [line["status"] for line in log if line["message"].startswith("POST /decode")] == [200] * 64 + [503, 200]


PATIENT = {"graceful_timeout_s": 600, "request_timeout_s": 600, "max_batch_delay_ms": 10_000}


async def test_a_second_signal_ends_the_process_at_once_with_1_and_one_line_for_all_who_are_cut(digits_model):
    async with serving(digits_model, **PATIENT) as it:
        reader, writer = await it.half_a_request()
        waiting = asyncio.create_task(it.client.get("/sample?n=1"))
        while "vae_queue_items 1.0" not in (await it.client.get("/metrics")).text:  # noqa: ASYNC110  # another process sets no asyncio.Event
            await asyncio.sleep(0.01)
        it.process.send_signal(signal.SIGINT)
        await it.becomes(503)
        it.process.send_signal(signal.SIGTERM)
        assert await it.ended() == 1
        assert await reader.readline() == b"HTTP/1.1 503 Service Unavailable\r\n"
        assert (await waiting).status_code == 503
        writer.close()
        assert await warnings_of(it) == ["shutdown timeout: cancelled 2 requests"]


async def test_draining_ends_when_its_time_is_over_with_1_where_somebody_was_still_inside(digits_model):
    async with serving(digits_model, graceful_timeout_s=0.2, request_timeout_s=600) as it:
        reader, writer = await it.half_a_request()
        it.process.send_signal(signal.SIGTERM)
        assert await it.ended() == 1
        assert await reader.readline() == b"HTTP/1.1 503 Service Unavailable\r\n"
        writer.close()
        assert await warnings_of(it) == ["shutdown timeout: cancelled 1 requests"]


async def test_where_all_connections_allowed_are_at_work_one_more_is_refused_by_a_problem(digits_model):
    async def asks(path: str) -> tuple[int, dict, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
        writer.write(b"GET %s HTTP/1.1\r\nHost: vae\r\n\r\n" % path.encode())
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
        headers = dict(line.split(": ", 1) for line in lines if line)
        body = await reader.readexactly(int(headers["content-length"]))
        writer.close()
        return int(status.split()[1]), headers, body

    async with serving(digits_model, max_connections=3) as it:
        assert [(await asks("/model"))[0] for _ in range(4)] == [200] * 4
        under_way = [await it.half_a_request() for _ in range(3)]
        status, headers, body = await asks("/model")
        assert (status, headers["content-type"], headers["connection"]) == (503, "application/problem+json", "close")
        assert json.loads(body)["detail"] == "more than the 3 connections allowed are open"
        assert (await asks("/livez"))[0] == 200
        for reader, writer in under_way:
            assert await rest(reader, writer) == b"HTTP/1.1 200 OK\r\n"
        await it.becomes(200, "/model")


async def test_sighup_serves_what_the_folder_holds_now_and_a_bad_one_changes_nothing(tmp_path):
    async def served() -> str:
        return (await it.client.get("/model")).json()["model"]

    async with serving(write(tmp_path / "served", DIGITS)) as it:
        first = await served()
        write_checkpoint(tmp_path / "served", DIGITS, build(DIGITS, 1).state_dict())
        it.process.send_signal(signal.SIGHUP)
        while (second := await served()) == first:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.01)
        (tmp_path / "served" / "model.safetensors").write_bytes(b"no weights")
        it.process.send_signal(signal.SIGHUP)
        while 'outcome="failed"} 1.0' not in (await it.client.get("/metrics")).text:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.01)
        assert await served() == second
        assert (await it.client.post("/decode", content=LATENT, headers=JSON)).headers["X-Model"] == second
        it.process.send_signal(signal.SIGTERM)
        assert await it.ended() == 0
        log = [json.loads(line) for line in (await it.log).splitlines()]
        assert f"reloaded: {second} serves after {first}" in [line["message"] for line in log]
        (refused,) = [line["message"] for line in log if line["level"] == "ERROR"]
        assert refused.startswith("not reloaded: served/model.safetensors: not a complete safetensors file")


BUSY = SERVE.replace(
    "serve(settings)",
    """
import asyncio, time
from functools import partial
from app.inference.threads import run_in_own_thread
from app.server.listener import Listener
from app.server.server import Server, run
class Busy(Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        for _ in range(64):
            asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)
        self.reload = asyncio.create_task(run_in_own_thread(partial(time.sleep, 600)))
run(Busy(settings, Listener(settings.host, settings.port)))
""",
)
"""The service while all threads that read and write pictures are at work that takes long, and a reload is as well."""


@pytest.mark.parametrize("somebody", [True, False])
async def test_threads_at_work_do_not_hold_up_the_end_of_the_process(somebody, digits_model):
    async with serving(digits_model, program=BUSY, graceful_timeout_s=0.2) as it:
        reader, writer = await it.half_a_request() if somebody else (None, None)
        it.process.send_signal(signal.SIGTERM)
        assert await it.ended() == int(somebody)
        assert (await warnings_of(it))[-1] == "exiting although threads are still running"
        if somebody:
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
    probe_grace_seconds = 0.5
server = BriefServer(settings, Listener(settings.host, settings.port))
server.services.engine.loaded_model.checkpoint.vae.encoder.register_forward_pre_hook(lose)
run(server)
""",
)
"""The service on a device that is lost when it meets a white image."""


async def test_a_process_whose_device_is_lost_says_so_to_its_probes_and_ends_with_1(digits_model):
    white = write_npy(np.full((1, 8, 8), 255, np.uint8))
    async with serving(digits_model, program=LOSING, runtime="torch") as it:
        answer = await it.client.post("/encode", content=white, headers={"content-type": "application/x-npy"})
        assert (answer.status_code, answer.json()["detail"]) == (503, "the device has stopped")
        await it.becomes(503, "/livez")
        assert await it.status() == 503
        assert (await it.client.post("/decode", content=LATENT, headers=JSON)).status_code == 503
        assert await it.ended() == 1


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_missing_model_is_told_in_one_line(workers):
    options = ("--model", "nowhere", "--port", "0", "--workers", workers, "--log-level", "error")
    process = await python("-c", "from app.cli import main; main()", "serve", *options)
    _, told = await process.communicate()
    assert process.returncode == 2
    assert told == b"vae: nowhere/config.json: No such file or directory\n"
