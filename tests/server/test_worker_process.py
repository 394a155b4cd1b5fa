"""A real worker with the test as its supervisor: messages and connections while the sockets between them are full."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator

import pytest

from app.inference.core_sharing import shared_slots
from app.server.messages import Drain, Drained, Draining, Message, Ready
from app.server.worker_process import WorkerProcess
from app.settings import Settings
from tests.support.apps import until

pytestmark = pytest.mark.anyio


async def wait_for(worker: WorkerProcess, expected: Message) -> None:
    async with asyncio.timeout(60):
        while (message := await worker.receive()) != expected:
            assert message, "the worker has exited"


async def wait_for_end_of_messages(worker: WorkerProcess) -> None:
    async with asyncio.timeout(60):
        while await worker.receive():
            pass


@pytest.fixture
async def worker(digits_model, tmp_path, monkeypatch) -> AsyncIterator[WorkerProcess]:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    started = WorkerProcess(Settings(model=digits_model, device="cpu", threads=1), 0, shared_slots(1))
    await wait_for(started, Ready())
    yield started
    started.kill()
    await started.wait()


async def test_messages_of_a_worker_reach_the_supervisor_after_its_socket_was_full(worker):
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(400):  # the worker reports each closed connection, and the supervisor does not read
            with socket.create_connection(server.getsockname()), server.accept()[0] as connection:
                await until(lambda connection=connection: worker.hand_over(connection))
            await asyncio.sleep(0.003)
    worker.send(Drain())
    await asyncio.sleep(0.5)
    for message in (Draining(), Drained()):
        await wait_for(worker, message)
    worker.retire()
    await wait_for_end_of_messages(worker)
    assert await worker.wait() == 0


async def test_messages_of_the_supervisor_reach_a_worker_after_its_sockets_were_full(worker):
    near, far = socket.socketpair()
    with near, far:
        os.kill(worker.process.pid, signal.SIGSTOP)
        while worker.hand_over(far):
            pass
        worker.send(Drain())
        worker.retire()
        os.kill(worker.process.pid, signal.SIGCONT)
        for message in (Draining(), Drained()):
            await wait_for(worker, message)
        await wait_for_end_of_messages(worker)
        assert await worker.wait() == 0
