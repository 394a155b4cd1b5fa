"""The service as a real process on a real socket, and a client of it."""

import asyncio
import json
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from app.observability.request_log import FLUSH_SECONDS
from tests.support.apps import until

POLL_SECONDS = 0.05
"""Seconds between two requests that wait for a state of the service."""

ROOT = Path(__file__).parents[2]
SERVE = """
import json, sys
from app import single_flight
from app.observability.logs import configure_logging
from app.server.supervisor import SupervisionPolicy, serve
from app.settings import Settings
single_flight.MAX_REST_SECONDS = 0.05
settings = Settings(**json.loads(sys.argv[1]))
configure_logging(settings)
serve(settings)
"""
"""The program of the process; tests replace its last line to change the service.

Tests read /metrics several times in a row, so a single process rests less between two of them.
"""

LATENT = json.dumps({"latents": [[0, 0, 0, 0]]}).encode()
HEAD = b"""\
POST /decode HTTP/1.1\r
Host: vae\r
Authorization: Bearer a-key-of-16-char\r
Content-Type: application/json\r
Content-Length: %d\r
Expect: 100-continue\r
\r
"""


def serve_command(model: Path | None, program: str, **settings: Any) -> list[str]:
    """The command that starts a service with these settings on a free port; warnings of Python are errors in it."""
    options = {"device": "cpu", "threads": 1, "port": 0, "workers": 1, **settings}
    if model:
        options["model"] = str(model)
    return [sys.executable, "-W", "error", "-c", program, json.dumps(options)]


async def python(*arguments: str) -> asyncio.subprocess.Process:
    """Start Python with these arguments, with its stderr in a pipe."""
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, stderr=pipe)


@dataclass(frozen=True)
class Scrape:
    """The text of /metrics."""

    text: str

    def count(self, name: str, **labels: str) -> float:
        """The sum of the series of a metric that have these labels."""
        lines = "\n".join(line for line in self.text.splitlines() if line.startswith(name))
        samples = [sample for family in text_string_to_metric_families(lines) for sample in family.samples]
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


class Service:
    """A running service: its process, its log so far, and clients of it.

    `client` keeps its connections, `_reconnecting` opens one for each request, so that any worker may answer it.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        port: int,
        client: httpx.AsyncClient,
        reconnecting: httpx.AsyncClient,
    ) -> None:
        self.process, self.client, self.port = process, client, port
        self._reconnecting = reconnecting
        self.log = asyncio.create_task(_read(process))

    async def status(self, path: str = "/readyz") -> int:
        """The status of a response; 0 where no process listens."""
        try:
            return (await self.request(path)).status_code
        except httpx.ConnectError:
            return 0

    async def wait_for_status(self, status: int, path: str = "/readyz") -> None:
        """Wait until a request gets this status."""
        while await self.status(path) != status:
            assert self.process.returncode is None, "the service has exited"
            await asyncio.sleep(POLL_SECONDS)

    async def request(self, path: str, method: str = "GET") -> httpx.Response:
        """The response to a request on a connection of its own, so that any worker may answer it."""
        return await self._reconnecting.request(method, path)

    async def request_all(self, *paths: str) -> list[httpx.Response]:
        """The responses to concurrent requests, each on a connection of its own."""
        return await asyncio.gather(*map(self.request, paths))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A new connection; None where no process listens."""
        try:
            return await asyncio.open_connection("127.0.0.1", self.port)
        except ConnectionError:
            return None

    async def scrape(self) -> "Scrape":
        """The metrics at this moment."""
        return Scrape((await self.request("/metrics")).text)

    async def count(self, name: str, **labels: str) -> float:
        """The sum of the series of a metric that have these labels."""
        return (await self.scrape()).count(name, **labels)

    async def settled_count(self, name: str, **labels: str) -> float:
        """The sum of these series once all workers have written what they counted before."""
        await asyncio.sleep(10 * FLUSH_SECONDS)
        return await self.count(name, **labels)

    async def wait_for_count(self, name: str, value: float, **labels: str) -> None:
        """Wait until the sum of these series has a value."""
        async with asyncio.timeout(60):
            while await self.count(name, **labels) != value:
                await asyncio.sleep(POLL_SECONDS)

    async def wait_for_workers(self, workers: int) -> None:
        """Wait until this number of workers accepts requests."""
        await self.wait_for_count("vae_workers", workers)

    def workers(self) -> list[int]:
        """The process ids of the workers that a supervisor has started."""
        return [child.pid for child in psutil.Process(self.process.pid).children() if is_worker(child)]

    async def wait_for_replacement(self, *victims: int) -> None:
        """Wait until two workers are ready, none of them one of these that were killed."""
        # killed ones count until others have started
        await until(lambda: len({*self.workers()} - {*victims}) == 2, POLL_SECONDS)
        await self.wait_for_workers(2)

    async def begin_request(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send the head of a request and wait until it was admitted; `LATENT` is the body that is left to send."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(HEAD % len(LATENT))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        return reader, writer

    async def wait(self) -> int:
        """Wait for the process to exit; its exit code."""
        async with asyncio.timeout(30):
            return await self.process.wait()

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the process to exit; its exit code."""
        self.process.send_signal(number)
        return await self.wait()

    async def records(self, *levels: str) -> list[dict[str, Any]]:
        """The log records of an exited process that have one of these levels, or all of them."""
        records = [json.loads(line) for line in (await self.log).splitlines() if line.startswith(b"{")]
        return [record for record in records if not levels or record["level"] in levels]

    async def messages(self, *levels: str) -> list[str]:
        """The messages that an exited process has logged with one of these levels."""
        return [record["message"] for record in await self.records(*levels)]


SEVERE = ("WARNING", "ERROR", "CRITICAL")


async def _read(process: asyncio.subprocess.Process) -> bytes:
    assert process.stderr
    return await process.stderr.read()


@asynccontextmanager
async def serving(model: Path | None = None, program: str = SERVE, **settings: Any) -> AsyncIterator[Service]:
    """Run a service in a process of its own until the end of the block; all of its workers are ready."""
    silent = settings.get("log_level", "info") != "info"
    command = serve_command(model, program, **{"port": free_port() if silent else 0, **settings})
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=asyncio.subprocess.PIPE)
    assert process.stderr
    try:
        port = json.loads(command[-1])["port"] or await _logged_port(process)
        options: Any = {"base_url": f"http://127.0.0.1:{port}", "timeout": 30, "headers": _key(settings)}
        once = httpx.Limits(max_keepalive_connections=0)
        async with (
            httpx.AsyncClient(limits=httpx.Limits(max_connections=64), **options) as client,
            httpx.AsyncClient(limits=once, **options) as reconnecting,
        ):
            service = Service(process, port, client, reconnecting)
            await service.wait_for_status(200)
            await service.wait_for_workers(int(settings.get("workers", 1)))
            yield service
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _logged_port(process: asyncio.subprocess.Process) -> int:
    """The port that the process logs once it listens."""
    assert process.stderr
    async with asyncio.timeout(60):
        while not (found := re.search(rb"http://127.0.0.1:(\d+)", line := await process.stderr.readline())):
            assert line, "the service has exited"
    return int(found[1])


def free_port() -> int:
    """A port on which no process listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def is_worker(process: psutil.Process) -> bool:
    """Whether a child of a supervisor is a worker, and not the resource tracker of multiprocessing."""
    try:
        return any("spawn_main" in argument for argument in process.cmdline())
    except psutil.Error:
        return False


def _key(settings: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {settings['api_key']}"} if "api_key" in settings else {}


async def finish_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Send the body of a request begun by `begin_request`; the status line of the response."""
    writer.write(LATENT)
    line = await reader.readline()
    writer.close()
    return line
