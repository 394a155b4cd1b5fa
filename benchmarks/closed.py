"""The closed loop: so many connections, each with one request under way; by wrk."""

import json
import subprocess
import tempfile
from collections.abc import Mapping
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
    return Measured(rate(found, connections), found["p50_ms"], found["p99_ms"], found["errors"])


def rate(found: Mapping[str, float], connections: int) -> float:
    """Requests a second: as many as were answered, or if they are few by Little's law, as each caller waits for one.

    Callers who are not answered at all are in no mean: where some wait much longer than others, answers are counted.
    """
    few, alike = found["requests"] <= FEW * connections, found["p99_ms"] <= 2 * found["p50_ms"]
    if found["requests"] and few and alike:
        return 1000 * connections / found["mean_ms"]
    return found["requests"] / found["seconds"]
