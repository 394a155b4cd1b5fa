"""Failures of supervised processes: no free file descriptors, a hanging worker, an error in the supervisor."""

import asyncio
import os
import shutil
import signal

import psutil
import pytest

from tests.support.live_server import SERVE, Service, finish_request, serving
from tests.support.processes import exists, first_free_descriptor, kill, limit_descriptors

pytestmark = pytest.mark.anyio

TWO = {"workers": 2, "api_key": "a-key-of-16-char"}
IMPATIENT = SERVE.replace(
    "serve(settings)", "serve(settings, SupervisionPolicy(start_attempts=1, heartbeat_timeout=5))"
)
FAILS_AT_SIGUSR1 = SERVE.replace(
    "serve(settings)",
    """
import signal
from types import SimpleNamespace
policy = SimpleNamespace(start_attempts=3, heartbeat_timeout=30, exit_grace=10, rebalance_interval=0.25)
signal.signal(signal.SIGUSR1, lambda *_: delattr(policy, "rebalance_interval"))
serve(settings, policy)
""",
)


@pytest.mark.slow
async def test_a_worker_that_hangs_or_cannot_be_started_is_replaced_as_soon_as_possible(digits_model):
    async with serving(digits_model, program=IMPATIENT, **TWO) as service:
        folder = psutil.Process(service.workers()[0]).environ()["PROMETHEUS_MULTIPROC_DIR"]
        stuck = service.workers()[0]
        os.kill(stuck, signal.SIGSTOP)
        await service.wait_for_replacement(stuck)

        supervisor, victim = service.process.pid, service.workers()[0]
        limit_descriptors(supervisor, first_free_descriptor(supervisor) + 1)  # for a connection, not for a worker
        await kill(victim)
        await service.wait_for_workers(1)
        await asyncio.sleep(1.2)
        assert {response.status_code for response in await service.request_all(*["/sample?n=1"] * 8)} == {200}
        limit_descriptors(supervisor, 1024)
        await service.wait_for_replacement(victim)

        limit_descriptors(supervisor, 3)
        await kill(*service.workers())
        assert await service.wait() == 1
        assert await service.connect() is None
        errors = await service.messages("ERROR")
        assert any("no heartbeat for 5 s, killing it" in error for error in errors)
        assert any("cannot be started: Too many open files; the next attempt is in 1 s" in error for error in errors)
        assert b"cannot be started: Too many open files, and no other is left" in await service.log
        shutil.rmtree(folder, ignore_errors=True)  # the supervisor had no descriptor left to remove it


async def answers_while_descriptors_are_lacking(service: Service) -> set[int]:
    """The statuses of requests that wait until workers have free descriptors."""
    for pid in service.workers():
        limit_descriptors(pid, first_free_descriptor(pid))
    responses = asyncio.gather(*(service.request("/sample?n=1") for _ in range(6)))
    await asyncio.sleep(0.7)
    assert not responses.done()
    for pid in service.workers():
        limit_descriptors(pid, 1024)
    return {response.status_code for response in await responses}


async def test_workers_log_a_lack_of_descriptors_and_a_supervisor_that_fails_lets_them_answer(digits_model):
    async with serving(digits_model, program=FAILS_AT_SIGUSR1, **TWO) as service:
        assert await answers_while_descriptors_are_lacking(service) == {200}
        workers, requests = service.workers(), [await service.begin_request() for _ in range(4)]
        service.process.send_signal(signal.SIGUSR1)
        async with asyncio.timeout(30):
            while connection := await service.connect():
                connection[1].close()
        assert {await finish_request(*request) for request in requests} == {b"HTTP/1.1 200 OK\r\n"}
        assert await service.wait() == 1
        assert not any(map(exists, workers))
        assert await service.messages("CRITICAL") == ["the supervisor failed: shutting down"]
        warnings = {message for message in await service.messages("WARNING") if message.startswith("accept")}
        assert warnings == {"accept failed (Too many open files), retrying in 0.5 s"}
