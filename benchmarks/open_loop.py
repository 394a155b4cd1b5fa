"""Open loop: requests arrive at random moments at a given rate, independent of earlier responses.

The latency of a request counts from its arrival, not from when a connection was free, so that a late response does not
hide the waiting of later requests (coordinated omission). Arrivals are a Poisson process with a fixed seed. The load
generator is a process of its own, so that requests are sent in time.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httptools
import numpy as np
import uvloop

from benchmarks.closed_loop import Measured
from benchmarks.payloads import Payload

CONNECTIONS = 256
TIMEOUT = 10.0
"""Seconds after the last arrival in which responses are awaited."""


class Connection(asyncio.Protocol):
    """A connection that sends one request at a time."""

    def __init__(self, load: "Load") -> None:
        self.load = load

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.load.idle.append(self)

    def send(self, arrived: float) -> None:
        """Send the request that arrived at this time."""
        self.arrived, self.parser = arrived, httptools.HttpResponseParser(self)
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Record the latency, and send the next waiting request."""
        self.load.answered(self, self.parser.get_status_code())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self.load.idle = deque(other for other in self.load.idle if other is not self)


class Load:
    """All requests, and the connections that they share."""

    def __init__(self, request: bytes, expected: int) -> None:
        self.request, self.expected = request, expected
        self.finished = asyncio.Event()
        self.idle: deque[Connection] = deque()
        self.waiting: deque[float] = deque()
        self.latencies: list[float] = []
        self.refused = 0

    def arrive(self, arrived: float) -> None:
        """Send a request, or let it wait until a connection is free."""
        if self.idle:
            self.idle.popleft().send(arrived)
        else:
            self.waiting.append(arrived)

    def answered(self, connection: Connection, status: int) -> None:
        """Use the connection for the next request, after its response is complete."""
        self.latencies.append(time.perf_counter() - connection.arrived)
        self.refused += status != 200
        if len(self.latencies) == self.expected:
            self.finished.set()
        if self.waiting:
            connection.send(self.waiting.popleft())
        else:
            self.idle.append(connection)


async def run(url: str, body: bytes, media: str, rate: float, seconds: float) -> dict[str, float]:
    """Measure requests that arrive at this rate, for this number of seconds."""
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {media}\r\n"
    count = round(rate * seconds)
    load = Load(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body, count)
    loop = asyncio.get_running_loop()
    for _ in range(CONNECTIONS):
        await loop.create_connection(lambda: Connection(load), parts.hostname or "", parts.port or 80)
    gaps = np.random.default_rng(0).exponential(1 / rate, count)
    moments = time.perf_counter() + 0.1 + np.cumsum(gaps)
    for moment in moments.tolist():
        if (wait := moment - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        load.arrive(moment)
    with suppress(TimeoutError):
        await asyncio.wait_for(load.finished.wait(), TIMEOUT)
    p50, p99 = np.percentile(load.latencies or [np.inf], [50, 99]) * 1000
    lost = count - len(load.latencies)
    taken = time.perf_counter() - (moments[0] - gaps[0])
    return {
        "per_second": len(load.latencies) / taken,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "errors": load.refused + lost,
    }


def open_loop(base: str, payload: Payload, rate: float, seconds: float) -> Measured:
    """Measure requests that arrive at random moments, at this rate per second, in a process of its own."""
    with tempfile.NamedTemporaryFile() as body:
        body.write(payload.body)
        body.flush()
        command = [sys.executable, "-m", "benchmarks.open_loop", base + payload.path, body.name, payload.media]
        printed = subprocess.run([*command, str(rate), str(seconds)], check=True, capture_output=True).stdout  # noqa: S603
    return Measured(**json.loads(printed))


if __name__ == "__main__":
    url, file, media, rate, seconds = sys.argv[1:]
    found = uvloop.run(run(url, Path(file).read_bytes(), media, float(rate), float(seconds)))
    sys.stdout.write(json.dumps(found) + "\n")
