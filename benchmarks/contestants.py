"""Who takes part: this service as it ships, its peers each in its best setting, and the ceiling of HTTP."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
PEERS = ROOT / "benchmarks" / ".venv" / "bin" / "python"
OURS, CEILING = "vae serve", "bare ASGI"


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server: `command` starts it, `setting` says how it was set, `package` whose version is told."""

    name: str
    command: Sequence[str]
    setting: str
    package: str
    environment: dict[str, str] = field(default_factory=dict)


def contestants() -> list[Contestant]:
    """In the order in which a round meets them."""
    return [
        Contestant(OURS, [str(Path(sys.executable).with_name("vae")), "serve"], "as it ships", "vae-service"),
        _peer("FastAPI", "fastapi_plain", "no batching, 2 processes", "fastapi"),
        _peer("LitServe", "litserve_peer", "2 workers, batches to 32 within 1 ms, fast queue", "litserve"),
        _peer("BentoML", "bentoml_peer", "2 workers, no batching: it takes another hop", "bentoml"),
        _peer("mosec", "mosec_peer", "2 workers, batches to 32 within 1 ms", "mosec"),
        _peer("Ray Serve", "ray_peer", "2 replicas, batches to 32 within 1 ms", "ray"),
        Contestant(
            CEILING,
            [sys.executable, "-m", "benchmarks.peers.bare"],
            "uvicorn, the same bytes in and out, no work",
            "uvicorn",
            {"BENCH_WORKERS": "1"},
        ),
    ]


def _peer(name: str, module: str, setting: str, package: str) -> Contestant:
    return Contestant(name, [str(PEERS), "-m", f"benchmarks.peers.{module}"], setting, package)
