"""The open loop: callers who come whether or not others have been answered, at random moments of a given rate.

A latency is counted from the moment at which the caller came, not from when a connection was free for him: no answer
that is late hides those who wait behind it (coordinated omission). Arrivals are a Poisson process with a fixed seed.
"""

import asyncio
import json
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httptools
import numpy as np
import uvloop

CONNECTIONS = 256
PATIENCE = 10.0
"""Seconds after the last arrival that answers may take."""


class Line(asyncio.Protocol):
    """One connection: sends a request, and tells when its answer is whole."""

    def __init__(self, crowd: "Crowd") -> None:
        self.crowd = crowd

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.crowd.idle.append(self)

    def ask(self, arrived: float) -> None:
        """Send the request of a caller who came at `arrived`."""
        self.arrived, self.parser = arrived, httptools.HttpResponseParser(self)
        self.transport.write(self.crowd.request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Note how long it took, and serve who waits."""
        self.crowd.answered(self, self.parser.get_status_code())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self.crowd.idle = deque(line for line in self.crowd.idle if line is not self)


class Crowd:
    """All callers, and the lines that they share."""

    def __init__(self, request: bytes, expected: int) -> None:
        self.request, self.expected = request, expected
        self.finished = asyncio.Event()
        self.idle: deque[Line] = deque()
        self.waiting: deque[float] = deque()
        self.latencies: list[float] = []
        self.refused = 0

    def arrive(self, arrived: float) -> None:
        """One caller comes; he waits where every line is busy."""
        if self.idle:
            self.idle.popleft().ask(arrived)
        else:
            self.waiting.append(arrived)

    def answered(self, line: Line, status: int) -> None:
        """A line is free again."""
        self.latencies.append(time.perf_counter() - line.arrived)
        self.refused += status != 200
        if len(self.latencies) == self.expected:
            self.finished.set()
        if self.waiting:
            line.ask(self.waiting.popleft())
        else:
            self.idle.append(line)


async def run(url: str, body: bytes, media: str, rate: float, seconds: float) -> dict[str, float]:
    """What callers at `rate` a second met for so many seconds."""
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {media}\r\n"
    count = round(rate * seconds)
    crowd = Crowd(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body, count)
    loop = asyncio.get_running_loop()
    for _ in range(CONNECTIONS):
        await loop.create_connection(lambda: Line(crowd), parts.hostname or "", parts.port or 80)
    gaps = np.random.default_rng(0).exponential(1 / rate, count)
    moments = time.perf_counter() + 0.1 + np.cumsum(gaps)
    for moment in moments.tolist():
        if (wait := moment - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        crowd.arrive(moment)
    with suppress(TimeoutError):
        await asyncio.wait_for(crowd.finished.wait(), PATIENCE)
    p50, p99 = np.percentile(crowd.latencies or [np.inf], [50, 99]) * 1000
    lost = count - len(crowd.latencies)
    taken = time.perf_counter() - (moments[0] - gaps[0])
    return {
        "per_second": len(crowd.latencies) / taken,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "errors": crowd.refused + lost,
    }


if __name__ == "__main__":
    url, file, media, rate, seconds = sys.argv[1:]
    found = uvloop.run(run(url, Path(file).read_bytes(), media, float(rate), float(seconds)))
    sys.stdout.write(json.dumps(found) + "\n")
