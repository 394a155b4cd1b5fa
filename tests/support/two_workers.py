"""A service of two workers, and what can be seen of its processes."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.apps import until
from tests.support.live_server import LATENT, SERVE, Service, serving

WORKERS = SERVE.replace(
    "from app.server.server import serve", "from app.server.supervisor import SupervisionPolicy, serve"
)
KEY = {"Authorization": "Bearer key"}


class Two:
    """A service of two workers, every question to it on a connection of its own."""

    def __init__(self, service: Service) -> None:
        self.process, self.port, self.log = service.process, service.port, service.log
        self.half_a_request, self.ended = service.half_a_request, service.ended

    async def ask(self, path: str, method: str = "GET") -> httpx.Response:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=KEY, timeout=30) as client:
            return await client.request(method, path)

    async def ask_all(self, *paths: str) -> list[httpx.Response]:
        return await asyncio.gather(*map(self.ask, paths))

    async def until_refused(self) -> set[bytes]:
        """The first lines of the answers to callers who come one after another, until nobody is there."""
        lines = set()
        while line := await self.line():
            reader, writer = line
            writer.write(b"GET /model HTTP/1.1\r\nHost: vae\r\nAuthorization: Bearer key\r\n\r\n")
            lines.add(await reader.readline())
            writer.close()
        return lines

    async def line(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A new connection; none where nobody is there."""
        try:
            return await asyncio.open_connection("127.0.0.1", self.port)
        except ConnectionError:
            return None

    async def count(self, name: str, **labels: str) -> float:
        """What whichever worker answers tells."""
        text = (await self.ask("/metrics")).text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    async def are(self, workers: int) -> None:
        async with asyncio.timeout(60):
            while await self.count("vae_workers") != workers:  # noqa: ASYNC110  # another process sets no asyncio.Event
                await asyncio.sleep(0.02)

    async def all_serve(self, model: str) -> None:
        async with asyncio.timeout(30):
            while {a.json()["model"] for a in await self.ask_all(*["/model"] * 12)} != {model}:  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.02)

    def pids(self) -> list[int]:
        parent = self.process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return [int(pid) for pid in children if "spawn_main" in command(pid)]

    async def replaces(self, *victims: int) -> None:
        """Until others are warm in the places of those who have died."""
        await until(lambda: len({*self.pids()} - {*victims}) == 2)  # the dead are counted until others are started
        await self.are(2)

    def counts(self) -> Path:
        """Where the workers write what they count."""
        environment = Path(f"/proc/{self.pids()[0]}/environ").read_text()
        return Path(re.findall("PROMETHEUS_MULTIPROC_DIR=([^\0]+)", environment)[0])


async def two(model: Path, program: str = WORKERS, **settings: object) -> AsyncIterator[Two]:
    options = {"workers": 2, "api_key": "key", **settings}
    async with serving(model, program=program, **options) as service:
        it = Two(service)
        await it.are(2)
        yield it


def command(pid: str) -> str:
    """The line that started a process, nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def exists(pid: int) -> bool:
    """Whether there is such a process, also one that has ended and is not forgotten yet."""
    return Path(f"/proc/{pid}").exists()


def sockets(pid: int) -> int:
    """How many a process has open."""
    count = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it has just been closed
            count += str(file.readlink()).startswith("socket:")
    return count


async def rest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The first line that answers a request whose rest is said now."""
    writer.write(LATENT)
    line = await reader.readline()
    writer.close()
    return line
