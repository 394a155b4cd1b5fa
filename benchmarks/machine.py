"""Versions, hardware and load of the machine, for the report."""

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from benchmarks.systems import PEERS

_PEERS = ("fastapi", "uvicorn", "litserve", "mosec", "ray", "torch")
_ASK = (
    "import json, sys; from importlib.metadata import version; print(json.dumps({p: version(p) for p in sys.argv[1:]}))"
)


def machine() -> dict[str, str]:
    """Processor, cores, operating system, and versions of the packages."""
    peers = json.loads(subprocess.run([PEERS, "-c", _ASK, *_PEERS], check=True, capture_output=True).stdout)  # noqa: S603
    wrk = subprocess.run(["wrk", "-v"], check=False, capture_output=True, text=True).stdout.split(" [")[0]  # noqa: S607
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "system": f"Linux {platform.release()}, Python {platform.python_version()}",
        "service": ", ".join(f"{name} {version(name)}" for name in ("torch", "fastapi", "uvicorn", "uvloop")),
        "peers": ", ".join(f"{name} {peers[name]}" for name in _PEERS),
        "load generator": wrk,
        "commit": _commit(),
    }


def load_averages() -> str:
    """The load averages over 1, 5 and 15 minutes."""
    return " / ".join(f"{load:.2f}" for load in os.getloadavg())


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    words = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(words, check=False, capture_output=True, text=True).stdout.strip()  # noqa: S603
