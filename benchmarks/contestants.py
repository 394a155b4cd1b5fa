"""Who takes part: this service as it ships, its peers each in its best setting, and the ceiling of HTTP."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

SERVE = "from app.cli import main; main()"


ROOT = Path(__file__).parent.parent
PEERS = ROOT / "benchmarks" / ".venv" / "bin" / "python"
SETTINGS = Path(__file__).with_name("settings.json")
OURS, CEILING = "vae serve", "bare ASGI"
SERVICE = "vae-service"
CONNECTIONS = (1, 8, 32, 64)


@dataclass(frozen=True, slots=True)
class Setting:
    """How a peer is set: its serving processes, their threads, and batches of so many that wait so long."""

    processes: int = 2
    threads: int = 1
    batch: int = 1
    wait_ms: int = 0

    def environment(self) -> dict[str, str]:
        """What tells it to the peer."""
        told = {"PROCESSES": self.processes, "THREADS": self.threads, "BATCH": self.batch, "WAIT_MS": self.wait_ms}
        return {f"BENCH_{name}": str(value) for name, value in told.items()}

    def __str__(self) -> str:
        batches = f"batches to {self.batch} within {self.wait_ms} ms" if self.batch > 1 else "no batches"
        return f"{self.processes} x {self.threads} threads, {batches}"


BATCHES = (Setting(batch=4, wait_ms=1), Setting(batch=8, wait_ms=1), Setting(batch=16, wait_ms=2))
LARGE_BATCHES = (Setting(batch=32, wait_ms=0), Setting(batch=32, wait_ms=1), Setting(batch=32, wait_ms=5))
APART, JOINTLY = Setting(), Setting(processes=1, threads=2)
"""No batches: a process on each core, or one on both."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server: `command` starts it in the folder `root`, `package` is whose version is told.

    `candidates` are the settings that `benchmarks.tuning` tries. One whose processes for other operations are in its
    way is asked for `one_operation` at a time.
    """

    name: str
    command: Sequence[str]
    package: str
    note: str
    candidates: Sequence[Setting] = ()
    one_operation: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    root: Path = ROOT

    def settings(self, model: str) -> Iterator[tuple[Setting, Sequence[int]]]:
        """The settings that were found best for the model, each with the numbers of connections that it is best at."""
        best = orjson.loads(SETTINGS.read_bytes())["best"][model][self.name] if self.candidates else {}
        chosen = {connections: Setting(**best.get(str(connections), {})) for connections in CONNECTIONS}
        for setting in dict.fromkeys(chosen.values()):
            yield setting, [connections for connections in CONNECTIONS if chosen[connections] == setting]


def service() -> Contestant:
    """This service."""
    return next(contestant for contestant in contestants() if contestant.name == OURS)


def earlier(checkout: Path) -> Contestant:
    """Another checkout of this service, such as `git worktree add ../before COMMIT` makes one."""
    command = [sys.executable, "-c", SERVE, "serve"]
    return Contestant(checkout.name, command, SERVICE, "an earlier version", root=checkout.resolve())


def contestants() -> list[Contestant]:
    """In the order in which a round meets them."""
    both = (APART, JOINTLY)
    lit = [*both, *(Setting(processes=1, batch=batch, wait_ms=1) for batch in (8, 32)), *LARGE_BATCHES[1:]]
    ray = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}
    many = (*both, *BATCHES, *LARGE_BATCHES)
    bare = {"BENCH_PROCESSES": "1"}
    return [
        Contestant(OURS, [sys.executable, "-c", SERVE, "serve"], SERVICE, "as it ships"),
        Contestant("FastAPI", _peer("fastapi_plain"), "fastapi", "no batching", both),
        Contestant(
            "LitServe", _peer("litserve_peer"), "litserve", "2 API servers, fast queue", lit, one_operation=True
        ),
        Contestant("BentoML", _peer("bentoml_peer"), "bentoml", "no batching: it takes another hop", both),
        Contestant("mosec", _peer("mosec_peer"), "mosec", "its front in Rust", many),
        Contestant("Ray Serve", _peer("ray_peer"), "ray", "its HAProxy in front", many, environment=ray),
        Contestant(CEILING, _peer("bare", sys.executable), "uvicorn", "the same bytes, no work", environment=bare),
    ]


def _peer(module: str, python: str = str(PEERS)) -> Sequence[str]:
    return [python, "-m", f"benchmarks.peers.{module}"]
