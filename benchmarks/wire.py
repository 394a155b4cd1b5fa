"""A running service and the lines to it, for experiments that count every request: sent, answered, refused, lost."""

import asyncio
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

HOST = "127.0.0.1"
SERVE = "from app.cli import main; main()"


class Answer(NamedTuple):
    """What came back; `status` 0 is a line that was cut before an answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class Line:
    """One keep-alive connection, opened again when it was cut."""

    _reader: asyncio.StreamReader

    def __init__(self, port: int) -> None:
        self.port = port
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, request: bytes) -> Answer:
        """The answer to one request; raises `ConnectionRefusedError` where nobody listens any more."""
        if self._writer is not None and self._reader.at_eof():  # the server has closed an idle line
            self.cut()
        try:
            if self._writer is None:
                self._reader, self._writer = await asyncio.open_connection(HOST, self.port)
            self._writer.write(request)
            await self._writer.drain()
            answer = await self._read()
        except ConnectionRefusedError:
            raise
        except (ConnectionError, asyncio.IncompleteReadError):
            answer = Answer(0, {}, b"")
        if answer.status == 0 or answer.headers.get("connection") == "close":
            self.cut()
        return answer

    def cut(self) -> None:
        """Leave, whatever is under way."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None

    async def _read(self) -> Answer:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in pairs}
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(head[0].split()[1]), headers, body)


class Service:
    """A process of the service, as a person starts it."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process, self.port = process, port
        self.log: list[bytes] = []
        self._keeping = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        if self.process.stderr:
            async for line in self.process.stderr:
                self.log.append(line)

    async def ready(self, workers: int) -> None:
        """Wait until so many processes take work, at least one."""
        while self.process.returncode is None:
            with suppress(ConnectionRefusedError):
                if (await self.metrics())["vae_workers"] >= max(1, workers):
                    return
            await asyncio.sleep(0.05)
        raise SystemExit(b"".join(self.log).decode() or "the service did not start")

    async def metrics(self) -> dict[str, float]:
        """What /metrics tells: series and value."""
        text = (await Line(self.port).ask(get("/metrics", Connection="close"))).body.decode()
        return {(pair := line.rsplit(" ", 1))[0]: float(pair[1]) for line in text.splitlines() if line[0] != "#"}

    async def images(self) -> float:
        """How many images the device has done."""
        return sum(value for series, value in (await self.metrics()).items() if series.startswith("vae_batch_size_sum"))

    async def memory(self) -> int:
        """Resident bytes."""
        return int((await self.metrics())["process_resident_memory_bytes"])

    async def ends(self, sig: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(sig)
        return await self.process.wait()


@asynccontextmanager
async def serving(*options: str, program: str = SERVE, **variables: str) -> AsyncIterator[Service]:
    """The service in a process of its own, ready; killed at the end if it still runs.

    It is one process unless VAE_WORKERS says otherwise: that is what the figures are of.
    """
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    command = (sys.executable, "-c", program, "serve", "--port", str(port), *options)
    environment = {"VAE_WORKERS": "1", **os.environ, "VAE_LOG_LEVEL": "warning", **variables}
    process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=asyncio.subprocess.PIPE)
    try:
        service = Service(process, port)
        await service.ready(int(environment["VAE_WORKERS"]))
        yield service
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def get(path: str, **headers: str) -> bytes:
    """A GET request as it goes over the wire."""
    return _request("GET", path, headers, b"")


def post(path: str, kind: str, body: bytes, **headers: str) -> bytes:
    """A POST request as it goes over the wire."""
    return _request("POST", path, {"Content-Type": kind, "Content-Length": str(len(body)), **headers}, body)


def _request(method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: vae", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def told(counts: Counter[str]) -> str:
    """Counts in a line."""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
