"""The closed loop: so many connections, each with one request under way; by wrk."""

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.payloads import Payload

SCRIPT = Path(__file__).with_name("wrk.lua")
FEW = 3
"""Requests of each caller up to which their number is too coarse a measure of the rate."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Requests a second, latencies in milliseconds, how many went wrong; processor time of the server for each, ms."""

    per_second: float
    p50_ms: float
    p99_ms: float
    errors: int
    processor_ms: float | None = None


def closed_loop(base: str, payload: Payload, connections: int, seconds: float) -> Measured:
    """What the server does for `connections` callers, each of whom asks again when it has its answer."""
    with tempfile.NamedTemporaryFile() as body:
        body.write(payload.body)
        body.flush()
        words = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{max(1, round(seconds))}s"]
        words += ["--timeout", "30s", "--script", str(SCRIPT), base + payload.path]
        words += ["--", body.name, payload.media, payload.accept]
        printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout  # noqa: S603  # our own words
    found = json.loads(printed.strip().rpartition("\n")[2])
    rate = found["requests"] / found["seconds"]
    if 0 < found["requests"] <= FEW * connections:
        rate = 1000 * connections / found["mean_ms"]  # Little's law: each caller always waits for one
    return Measured(rate, found["p50_ms"], found["p99_ms"], found["errors"])
