"""Closed loop: a fixed number of connections, each with one request in flight, by wrk."""

import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from pathlib import Path

from benchmarks.payloads import Payload

SCRIPT = Path(__file__).with_name("wrk.lua")
FEW = 3
"""Requests per connection up to which their number is too coarse for a rate."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Requests per second, latencies in ms, number of errors, and CPU time of the server per request in ms."""

    per_second: float
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_ms: float = nan


def closed_loop(base: str, payload: Payload, connections: int, seconds: float) -> Measured:
    """Measure a server with this number of connections; each sends its next request after the response."""
    with tempfile.NamedTemporaryFile() as body:
        body.write(payload.body)
        body.flush()
        words = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{max(1, round(seconds))}s"]
        words += ["--timeout", "30s", "--script", str(SCRIPT), base + payload.path]
        words += ["--", body.name, payload.media, payload.accept]
        words += [f"{name}: {value}" for name, value in payload.headers.items()]
        printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout  # noqa: S603
    found = json.loads(printed.strip().rpartition("\n")[2])
    return Measured(rate(found, connections), found["p50_ms"], found["p99_ms"], found["errors"])


def rate(found: Mapping[str, float], connections: int) -> float:
    """Requests per second, counted, or for few requests computed from the mean latency by Little's law.

    Requests without a response are in no mean, so responses are counted if latencies differ much.
    """
    few, uniform = found["requests"] <= FEW * connections, found["p99_ms"] <= 2 * found["p50_ms"]
    if found["requests"] and few and uniform:
        return 1000 * connections / found["mean_ms"]
    return found["requests"] / found["seconds"]
