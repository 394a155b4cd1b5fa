"""A real worker, its parent being the test: the line between them takes so much and no more."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator

import pytest

from app.child import Child
from app.neighbours import places
from app.settings import Settings

pytestmark = pytest.mark.anyio


async def until_it_says(child: Child, word: str) -> None:
    """Hear it until then; its last word is none."""
    async with asyncio.timeout(60):
        while (said := await child.hear()) != word:
            assert said, "it has ended"


@pytest.fixture
async def child(digits_model, tmp_path, monkeypatch) -> AsyncIterator[Child]:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    started = Child(Settings(model=digits_model, device="cpu", threads=1), 0, places(1))
    await until_it_says(started, "warm")
    yield started
    started.process.kill()
    await started.ended()


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
