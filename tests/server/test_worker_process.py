"""A real worker, its parent being the test: the line between them takes so much and no more."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator

import pytest

from app.inference.core_sharing import shared_slots
from app.server.worker_process import WorkerProcess
from app.settings import Settings
from tests.support.apps import until

pytestmark = pytest.mark.anyio


async def until_it_says(child: WorkerProcess, word: str) -> None:
    """Hear it until then; its last word is none."""
    async with asyncio.timeout(60):
        while (said := await child.hear()) != word:
            assert said, "it has ended"


@pytest.fixture
async def child(digits_model, tmp_path, monkeypatch) -> AsyncIterator[WorkerProcess]:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    started = WorkerProcess(Settings(model=digits_model, device="cpu", threads=1), 0, shared_slots(1))
    await until_it_says(started, "warm")
    yield started
    started.kill()
    await started.ended()


async def test_what_a_worker_says_while_its_line_is_full_reaches_the_supervisor(child):
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(400):  # the worker says that each is gone, and is not heard
            with socket.create_connection(server.getsockname()), server.accept()[0] as connection:
                await until(lambda taken=connection: child.take(taken))
            await asyncio.sleep(0.003)
    child.say("drain")
    await asyncio.sleep(0.5)
    for word in ("draining", "done"):
        await until_it_says(child, word)
    child.dismiss()
    await until_it_says(child, "")
    assert await child.ended() == 0


async def test_what_a_worker_is_told_while_its_line_is_full_reaches_it(child):
    near, far = socket.socketpair()
    with near, far:
        os.kill(child.process.pid, signal.SIGSTOP)
        while child.take(far):
            pass
        child.say("drain")
        child.dismiss()
        os.kill(child.process.pid, signal.SIGCONT)
        for word in ("draining", "done", ""):
            await until_it_says(child, word)
        assert await child.ended() == 0
