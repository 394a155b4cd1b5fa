"""A service of two workers whose processes may open no more files, or whose supervisor fails."""

import asyncio
import json
import os
import resource
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.apps import until
from tests.support.two_workers import WORKERS, Two, exists, rest, two

pytestmark = pytest.mark.anyio

GIVES_UP_AT_ONCE = WORKERS.replace("serve(settings)", "serve(settings, SupervisionPolicy(start_attempts=1))")
FAILS_AT_SIGUSR1 = WORKERS.replace(
    "serve(settings)",
    """
import signal
from types import SimpleNamespace
policy = SimpleNamespace(start_attempts=3, heartbeat_timeout=30, exit_grace=10, rebalance_interval=0.25)
signal.signal(signal.SIGUSR1, lambda *_: delattr(policy, "rebalance_interval"))
serve(settings, policy)
""",
)


@pytest.fixture(scope="module")
async def it(digits_model) -> AsyncIterator[Two]:
    async for service in two(digits_model, program=FAILS_AT_SIGUSR1):
        yield service


def limit_files(pid: int, most: int) -> None:
    """Let a process open no descriptor from this number on; those that it has stay."""
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]))


def first_free(pid: int) -> int:
    """The lowest number that is no open descriptor of a process."""
    taken = {int(file.name) for file in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in range(len(taken) + 1) if number not in taken)


async def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    await until(lambda: not any(map(exists, pids)))


async def messages(it: Two, level: str) -> list[str]:
    """What an ended service has logged at a level."""
    log = [json.loads(line) for line in (await it.log).splitlines() if line.startswith(b"{")]
    return [line["message"] for line in log if line["level"] == level]


async def test_a_worker_that_cannot_be_started_is_tried_again_while_another_serves(digits_model):
    async for it in two(digits_model, program=GIVES_UP_AT_ONCE):
        supervisor, folder = it.process.pid, it.counts()
        victim = it.pids()[0]
        limit_files(supervisor, first_free(supervisor) + 1)  # enough to take connections in, not for a new worker
        await kill(victim)
        await it.are(1)
        await asyncio.sleep(1.2)
        assert {answer.status_code for answer in await it.ask_all(*["/sample?n=1"] * 8)} == {200}
        limit_files(supervisor, 1024)
        await it.replaces(victim)

        limit_files(supervisor, 3)
        await kill(*it.pids())
        assert await it.ended() == 1
        assert await it.line() is None
        log = await it.log
        assert b"cannot be started: Too many open files; the next attempt is in 1 s" in log
        assert b"cannot be started: Too many open files, and no other is left" in log
        shutil.rmtree(folder, ignore_errors=True)


async def test_a_worker_that_may_open_no_more_files_logs_it_and_takes_connections_later(it):
    for pid in it.pids():
        limit_files(pid, first_free(pid))
    answers = asyncio.gather(*(it.ask("/sample?n=1") for _ in range(6)))
    await asyncio.sleep(0.7)
    assert not answers.done()
    for pid in it.pids():
        limit_files(pid, 1024)
    assert {answer.status_code for answer in await answers} == {200}


async def test_a_supervisor_that_fails_ends_the_service_and_its_workers_answer_what_they_accepted(it):
    workers, inside = it.pids(), [await it.half_a_request() for _ in range(4)]
    it.process.send_signal(signal.SIGUSR1)
    async with asyncio.timeout(30):
        while line := await it.line():
            line[1].close()
    assert {await rest(*half) for half in inside} == {b"HTTP/1.1 200 OK\r\n"}
    assert await it.ended() == 1
    assert not any(map(exists, workers))
    assert await messages(it, "CRITICAL") == ["the supervisor failed: shutting down"]
    warned = {message for message in await messages(it, "WARNING") if message.startswith("accept")}
    assert warned == {"accept failed (Too many open files), retrying in 0.5 s"}
