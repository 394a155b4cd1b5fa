"""HTTP load in which every request is counted: sent, answered, refused, or lost on an open connection."""

import asyncio
import io
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple, Self

import numpy as np
from PIL import Image

HOST = "127.0.0.1"
JSON, NPY, PNG = "application/json", "application/x-npy", "image/png"


class Answer(NamedTuple):
    """A response; `status` is 0 where the connection was closed before a response."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """A keep-alive connection, which is opened again after it was closed, and closed at the end of a `with` block."""

    _reader: asyncio.StreamReader

    def __init__(self, port: int) -> None:
        self.port = port
        self._writer: asyncio.StreamWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def send(self, request: bytes) -> Answer:
        """Send a request and return its response; raises `ConnectionRefusedError` where no process listens."""
        if self._writer is not None and self._reader.at_eof():  # the server has closed an idle connection
            self.close()
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
            self.close()
        return answer

    async def send_counted(self, request: bytes, counts: Counter[str]) -> Answer:
        """Send a request, and count it as sent and as what became of it."""
        counts["sent"] += 1
        answer = await self.send(request)
        counts["lost" if answer.status == 0 else f"answered {answer.status}"] += 1
        return answer

    def close(self) -> None:
        """Abort the connection, also in the middle of a response."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None

    async def _read(self) -> Answer:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in pairs}
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(head[0].split()[1]), headers, body)


async def run_clients(port: int, request: bytes, clients: int, going: Callable[[], bool], counts: Counter[str]) -> None:
    """Send a request again and again from several clients, until the time is over or no process listens."""

    async def client() -> None:
        with suppress(ConnectionRefusedError), Connection(port) as connection:
            while going():
                await connection.send_counted(request, counts)

    await asyncio.gather(*(client() for _ in range(clients)))


def for_seconds(seconds: float) -> Callable[[], bool]:
    """Return a function that is true until the time is over."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


def get(path: str, **headers: str) -> bytes:
    """The bytes of a GET request."""
    return _request("GET", path, headers, b"")


def post(path: str, media_type: str, body: bytes, **headers: str) -> bytes:
    """The bytes of a POST request."""
    return _request("POST", path, {"Content-Type": media_type, "Content-Length": str(len(body)), **headers}, body)


def png(level: int | None = None) -> bytes:
    """A PNG file of noise, or of one grey level."""
    pixels = np.random.default_rng().integers(0, 256, (28, 28), np.uint8) if level is None else np.full((28, 28), level)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def npy(count: int) -> bytes:
    """An .npy file of this number of images of noise."""
    file = io.BytesIO()
    np.save(file, np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8))
    return file.getvalue()


def format_counts(counts: Mapping[str, float]) -> str:
    """Counts in one line, by name."""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def _request(method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: vae", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
