"""The real process on a real socket, and a client of it, as several files of laws need them."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
SERVE = """
import json, sys
from app.observability.logs import configure_logging
from app.server.server import serve
from app.settings import Settings
settings = Settings(**json.loads(sys.argv[1]))
configure_logging(settings)
serve(settings)
"""
LATENT = json.dumps({"latents": [[0, 0, 0, 0]]}).encode()
HEAD = b"""\
POST /decode HTTP/1.1\r
Host: vae\r
Authorization: Bearer key\r
Content-Type: application/json\r
Content-Length: %d\r
Expect: 100-continue\r
\r
"""


async def python(*arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, stderr=pipe)


class Service:
    """A running process, what it has logged, and a client of it."""

    def __init__(self, process: asyncio.subprocess.Process, client: httpx.AsyncClient, port: int) -> None:
        self.process, self.client, self.port = process, client, port
        self.log = asyncio.create_task(process.stderr.read())

    async def status(self, path: str = "/readyz") -> int:
        """What a probe is answered; 0 where nobody listens yet."""
        try:
            return (await self.client.get(path)).status_code
        except httpx.ConnectError:
            return 0

    async def becomes(self, status: int, path: str = "/readyz") -> None:
        while await self.status(path) != status:  # noqa: ASYNC110  # another process sets no asyncio.Event
            await asyncio.sleep(0.01)

    async def half_a_request(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A caller who has been let in, and who says the rest, `LATENT`, when the test wants it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(HEAD % len(LATENT))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        return reader, writer

    async def ended(self) -> int:
        async with asyncio.timeout(30):
            return await self.process.wait()


@asynccontextmanager
async def serving(model: Path, program: str = SERVE, **settings: Any) -> AsyncIterator[Service]:
    options = {"model": str(model), "device": "cpu", "threads": 1, "port": 0, **settings}
    process = await python("-W", "error", "-c", program, json.dumps(options))
    try:
        async with asyncio.timeout(60):
            while not (found := re.search(rb"http://127.0.0.1:(\d+)", line := await process.stderr.readline())):
                assert line, "it has ended"
        limits = httpx.Limits(max_connections=64)
        url = f"http://127.0.0.1:{int(found[1])}"
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=30) as client:
            service = Service(process, client, int(found[1]))
            await service.becomes(200)
            yield service
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def warnings_of(service: Service) -> list[str]:
    """What the log of an ended process has to say besides its usual lines."""
    log = [json.loads(line) for line in (await service.log).splitlines()]
    return [line["message"] for line in log if line["level"] not in ("INFO", "DEBUG")]
