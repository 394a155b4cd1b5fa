"""The open loop in a process of its own, so that its callers come in time."""

import json
import subprocess
import sys
import tempfile

from benchmarks.closed import Measured
from benchmarks.payloads import Payload


def open_loop(base: str, payload: Payload, rate: float, seconds: float) -> Measured:
    """What callers meet who come at random moments, `rate` a second."""
    with tempfile.NamedTemporaryFile() as body:
        body.write(payload.body)
        body.flush()
        words = [sys.executable, "-m", "benchmarks.open_loop", base + payload.path, body.name, payload.media]
        printed = subprocess.run([*words, str(rate), str(seconds)], check=True, capture_output=True).stdout  # noqa: S603
    return Measured(**json.loads(printed))
