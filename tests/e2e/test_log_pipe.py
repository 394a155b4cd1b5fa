"""A log with a slow or closed reader: lines are dropped and counted, and the service does not block."""

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from tests.support.live_server import ROOT, SERVE, serving

pytestmark = pytest.mark.anyio

LOG = """
import logging, sys, threading
from app.observability.logs import configure_logging
from app.settings import Settings
configure_logging(Settings())
def say(thread):
    for number in range(LINES):
        logging.getLogger("app.x").info("thread %d line %d", thread, number, extra={"filling": "x" * 200})
threads = [threading.Thread(target=say, args=(thread,)) for thread in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("said", flush=True)
sys.stdin.read()
"""
UNKNOWN = b"GET /%b HTTP/1.1\r\nHost: vae\r\n\r\n" % (b"x" * 200)
QUEUES_LITTLE = SERVE.replace(
    "configure_logging(settings)", "app.observability.logs.MAX_BUFFERED = 20_000\nconfigure_logging(settings)"
)
QUEUES_LITTLE = QUEUES_LITTLE.replace("import json", "import app.observability.logs, json")


async def logging_process(lines: int, stderr: int = subprocess.PIPE) -> asyncio.subprocess.Process:
    """A process with four threads that log this number of lines each, and then print "said"."""
    command = [sys.executable, "-c", LOG.replace("LINES", str(lines))]
    pipe = subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=stderr)


def lines_of(log: bytes) -> tuple[list[str], int]:
    """The messages of a log without the reports of dropped lines, and the number of lines reported as dropped."""
    messages = [json.loads(line)["message"] for line in log.splitlines()]
    dropped = [re.fullmatch(r"(\d+) log lines were dropped because stderr did not take them", m) for m in messages]
    return [m for m, found in zip(messages, dropped, strict=True) if not found], sum(int(d[1]) for d in dropped if d)


async def test_lines_dropped_because_of_a_full_pipe_are_counted_and_reported_later():
    read, write = os.pipe()
    process = await logging_process(3_000, write)
    os.close(write)
    async with asyncio.timeout(60):
        assert await process.stdout.readline() == b"said\n"
    with os.fdopen(read, "rb") as pipe:
        reading = asyncio.create_task(asyncio.to_thread(pipe.read))
        await asyncio.sleep(0.2)
        process.stdin.close()
        messages, dropped = lines_of(await reading)
    assert await process.wait() == 0
    assert dropped > 0
    assert len(messages) + dropped == 12_000
    for thread in range(4):  # those that are written are in order
        numbers = [int(m.split()[3]) for m in messages if m.startswith(f"thread {thread} ")]
        assert numbers == sorted(numbers)


async def test_a_process_writes_all_lines_before_it_exits_if_they_are_read():
    process = await logging_process(500)
    _, log = await process.communicate(b"")
    messages, dropped = lines_of(log)
    assert (len(messages), dropped) == (2_000, 0)


async def test_a_process_exits_although_its_log_is_not_read():
    read, write = os.pipe()
    process = await logging_process(3_000, write)
    os.close(write)
    process.stdin.close()
    async with asyncio.timeout(30):
        assert await process.wait() == 0
    os.close(read)


async def test_a_closed_pipe_is_not_an_error():
    read, write = os.pipe()
    process = await logging_process(500, write)
    os.close(write)
    os.close(read)
    out, _ = await process.communicate(b"")
    assert (process.returncode, out) == (0, b"said\n")


async def test_a_non_blocking_pipe_gets_every_line():
    read, write = os.pipe()
    os.set_blocking(write, False)
    process = await logging_process(1_000, write)
    os.close(write)
    process.stdin.close()
    with os.fdopen(read, "rb") as pipe:
        messages, dropped = lines_of(await asyncio.to_thread(pipe.read))
    assert await process.wait() == 0
    assert len(messages) + dropped == 4_000


async def test_a_service_whose_log_is_not_read_answers_counts_dropped_lines_and_exits(digits_model):
    async with serving(digits_model, program=QUEUES_LITTLE) as it:
        it.log.cancel()  # no more is read than some 128 KiB; as much as half of that fits into the pipe
        async with asyncio.timeout(60):
            reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
            writer.write(UNKNOWN * 768 + b"GET /livez HTTP/1.1\r\nHost: vae\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).count(b"HTTP/1.1 404 Not Found\r\n") == 768
            writer.close()
            metrics = (await it.client.get("/metrics")).text
        assert int(re.findall(r"^vae_dropped_log_lines_total (\d+)", metrics, re.M)[0]) > 0
        rest = asyncio.create_task(it.process.stderr.read())
        it.process.send_signal(signal.SIGTERM)
        assert await it.wait() == 0
        assert b" log lines were dropped because stderr did not take them" in await rest


def test_the_log_is_text_on_a_terminal():
    program = LOG.replace("LINES", "1")
    terminal, its = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.DEVNULL, stderr=its):
        os.close(its)
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(terminal, 4096)
    os.close(terminal)
    assert re.match(rb"\d{4}-\d\d-\d\d .* INFO +app\.x  thread \d line 0", line)
