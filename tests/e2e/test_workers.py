"""Two real workers on one port act as one service: responses, counts, reloads, rebalancing and shutdown."""

import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from app.server.supervisor import SupervisionPolicy
from model.checkpoint import read_checkpoint, write_checkpoint
from tests.support.apps import until
from tests.support.live_server import SEVERE, Service, finish_request, python, serving
from tests.support.models import DIGITS, build, write
from tests.support.processes import count_sockets, exists, kill

pytestmark = pytest.mark.anyio

TWO = {"workers": 2, "api_key": "a-key-of-16-char"}
OK, UNAVAILABLE = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 503 Service Unavailable\r\n"


@pytest.fixture(scope="module")
async def folder(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("workers") / "served", DIGITS)


@pytest.fixture(scope="module")
async def service(folder) -> AsyncIterator[Service]:
    async with serving(folder, **TWO) as running:
        yield running


def replace_weights(folder: Path, seed: int) -> str:
    write_checkpoint(folder, DIGITS, build(DIGITS, seed).state_dict())
    return read_checkpoint(folder).identity


async def wait_for_model(service: Service, model: str) -> None:
    """Wait until all of many connections, so both workers, serve the model."""
    async with asyncio.timeout(30):
        while {r.json()["model"] for r in await service.request_all(*["/model"] * 12)} != {model}:
            await asyncio.sleep(0.02)


async def test_both_workers_return_the_same_bytes_for_a_seed_and_expose_the_counts_of_both(service):
    before = await service.settled_count("vae_requests_total", endpoint="/sample")
    responses = await service.request_all(*["/sample?n=2&seed=3"] * 40)
    assert {response.status_code for response in responses} == {200}
    assert len({response.content for response in responses}) == 1
    await service.wait_for_count("vae_requests_total", before + 40, endpoint="/sample", status="200")
    for _ in range(4):
        scrape = await service.scrape()
        assert scrape.count("vae_requests_total", endpoint="/sample", status="200") == before + 40
        assert scrape.count("vae_request_duration_seconds_count", endpoint="/sample") == before + 40
        assert scrape.count("vae_queue_items") == 0
        assert (scrape.count("vae_ready"), scrape.count("vae_model_info")) == (1, 1)


async def test_process_metrics_include_all_processes(service):
    pids = (service.process.pid, *service.workers())
    total = sum(psutil.Process(pid).memory_info().rss for pid in pids)
    assert 0.9 * total < await service.count("process_resident_memory_bytes") < 1.1 * total + 2**25


async def test_metrics_are_exposed_while_another_worker_creates_its_files(service):
    environment = psutil.Process(service.workers()[0]).environ()
    empty = Path(environment["PROMETHEUS_MULTIPROC_DIR"]) / "counter_7.db"
    empty.touch()
    assert await service.count("vae_workers") == 2
    empty.unlink()


async def test_a_killed_worker_is_replaced_and_its_counts_are_kept(service):
    answered = await service.settled_count("vae_requests_total")
    seconds = await service.count("process_cpu_seconds_total")
    victim = service.workers()[0]
    await kill(victim)  # requests that arrive before it has gone are lost with it
    await service.wait_for_workers(1)
    responses = await service.request_all(*["/sample?seed=3"] * 20)
    assert {response.status_code for response in responses} == {200}
    await service.wait_for_replacement(victim)
    await service.wait_for_count("vae_requests_total", answered + 20)
    assert await service.count("process_cpu_seconds_total") > seconds
    assert await service.count("vae_model_info") == 1


async def test_keep_alive_connections_are_rebalanced_after_a_worker_was_replaced(service):
    async with AsyncExitStack() as stack:
        options = {"base_url": service.client.base_url, "headers": service.client.headers, "timeout": 30}
        clients = [await stack.enter_async_context(httpx.AsyncClient(**options)) for _ in range(6)]
        await asyncio.gather(*(client.get("/model") for client in clients))
        victim = service.workers()[0]
        await kill(victim)
        await asyncio.gather(*(client.get("/model") for client in clients), return_exceptions=True)  # some are cut
        await asyncio.gather(*(client.get("/model") for client in clients))
        replacement = asyncio.create_task(service.wait_for_replacement(victim))
        while not replacement.done():  # an idle connection would be closed after 5 s
            await asyncio.gather(asyncio.sleep(0.5), *(client.get("/model") for client in clients))
        await replacement
        async with asyncio.timeout(20):
            while len({count_sockets(pid) for pid in service.workers()}) > 1:
                responses = await asyncio.gather(*(client.get("/model") for client in clients))
                assert {response.status_code for response in responses} == {200}
                await asyncio.sleep(0.1)
        await asyncio.sleep(3 * SupervisionPolicy().rebalance_interval)  # a request to shed connections is withdrawn
        responses = await asyncio.gather(*(client.get("/model") for client in clients))
        assert {response.headers.get("connection") for response in responses} == {None}


async def test_connections_are_spread_over_both_workers_after_many_connections_were_closed(service):
    workers = [psutil.Process(pid) for pid in service.workers()]

    def open_connections() -> list[int]:
        return [len(worker.net_connections("tcp")) for worker in workers]  # some are the client's, kept alive

    before = sum(open_connections())
    for _ in range(4):
        connections = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(16)]
        for _, writer in connections:
            writer.close()
        await until(lambda: sum(open_connections()) <= before)
        await asyncio.sleep(0.5)  # five heartbeats: the supervisor knows that the connections are closed
        requests = [await service.begin_request() for _ in range(4)]
        first, second = open_connections()
        assert abs(first - second) <= 1
        assert {await finish_request(*request) for request in requests} == {OK}


async def test_sighup_reloads_the_model_in_every_worker(service, folder):
    model, reloads = replace_weights(folder, 1), await service.count("vae_reloads_total", outcome="success")
    service.process.send_signal(signal.SIGHUP)
    await wait_for_model(service, model)
    await service.wait_for_count("vae_reloads_total", reloads + 2, outcome="success")
    assert await service.count("vae_model_info", model=model) == await service.count("vae_model_info") == 1


async def test_a_reload_requested_of_one_worker_is_followed_by_the_other(service, folder):
    model = replace_weights(folder, 2)
    response = await service.request("/admin/reload", "POST")
    assert (response.status_code, response.headers["X-Model"]) == (200, model)
    await wait_for_model(service, model)


async def test_a_failed_reload_is_not_followed_by_the_other_worker(service, folder):
    model = (await service.request("/model")).json()["model"]
    failed = await service.count("vae_reloads_total", outcome="failed")
    config = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(b"{}")
    assert (await service.request("/admin/reload", "POST")).status_code == 409
    (folder / "config.json").write_bytes(config)
    assert await service.count("vae_reloads_total", outcome="failed") == failed + 1
    await wait_for_model(service, model)


async def test_connections_wait_for_the_next_worker_while_none_is_running(service):
    victims = service.workers()
    await kill(*victims)
    assert (await service.request("/sample?n=1")).status_code == 200
    await service.wait_for_replacement(*victims)


async def test_a_port_in_use_is_reported_in_one_line(service, folder):
    options = ("--model", str(folder), "--port", str(service.port), "--workers", "2")
    process = await python("-c", "from app.cli import main; main()", "serve", *options)
    _, log = await process.communicate()
    assert process.returncode == 2
    assert log == b"vae: 127.0.0.1 port %d: Address already in use\n" % service.port


async def test_workers_whose_supervisor_is_killed_answer_the_accepted_requests_and_exit(folder):
    async with serving(folder, **TWO) as service:
        workers, requests = service.workers(), [await service.begin_request() for _ in range(4)]
        service.process.kill()
        while connection := await service.connect():
            connection[1].close()
        assert {await finish_request(*request) for request in requests} == {OK}
        assert await service.wait() == -signal.SIGKILL
        assert (await service.messages("INFO")).count("POST /decode 200") >= 4  # the last worker has closed the log
        await until(lambda: not any(map(exists, workers)))


async def statuses_until_closed(service: Service) -> set[bytes]:
    """The status lines of requests that follow each other until no process listens."""
    lines = set()
    while connection := await service.connect():
        reader, writer = connection
        writer.write(b"GET /model HTTP/1.1\r\nHost: vae\r\nAuthorization: Bearer a-key-of-16-char\r\n\r\n")
        lines.add(await reader.readline())
        writer.close()
    return lines


async def test_a_drain_answers_the_accepted_requests_of_both_workers_and_refuses_new_ones_until_the_end(digits_model):
    async with serving(digits_model, **TWO) as service:
        await asyncio.sleep(0.3)  # for the heartbeats without the connections of the start
        requests = [await service.begin_request() for _ in range(12)]
        for pid in (service.process.pid, *service.workers() * 50):  # a signal may interrupt the handling of another
            os.kill(pid, signal.SIGTERM)
        await service.wait_for_workers(0)
        newcomers = asyncio.gather(*(statuses_until_closed(service) for _ in range(8)))
        await asyncio.sleep(0.5)
        assert {await finish_request(*request) for request in requests} == {OK}
        assert set().union(*await newcomers) <= {UNAVAILABLE, b""}
        assert await service.wait() == 0
        assert await service.messages(*SEVERE) == []
        answered = Counter(r["worker"] for r in await service.records() if r["message"] == "POST /decode 200")
        assert sum(answered.values()) == 12
        assert max(answered.values()) <= 7


@pytest.mark.slow
async def test_a_second_signal_cancels_the_requests_in_flight_and_exits_with_1(digits_model):
    async with serving(digits_model, **TWO, graceful_timeout_s=600, request_timeout_s=600) as service:
        requests = [await service.begin_request() for _ in range(4)]
        service.process.send_signal(signal.SIGINT)
        await service.wait_for_workers(0)
        assert await service.stop(signal.SIGINT) == 1
        for reader, writer in requests:
            assert await reader.readline() == UNAVAILABLE
            writer.close()
        logged = await service.messages(*SEVERE)
        counts = [re.fullmatch(r"requests cancelled at shutdown: (\d+)", message) for message in logged]
        assert sum(int(count[1]) for count in counts) == len(requests)


async def test_a_service_whose_workers_cannot_start_exits_and_reports_the_reason(digits_model, tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit(7)")  # only workers import torch
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from app.cli import main; main()"
    options = ("--model", str(digits_model), "--port", "0", "--workers", "2", "--log-format", "text")
    process = await python("-c", code, "serve", *options)
    _, log = await process.communicate()
    assert process.returncode == 2
    assert log.splitlines()[-1] == b"vae: a worker exited 3 times before it was ready, with exit code 7"
