"""Measured systems: this service by default, each peer in its best setting, and the floor of the hot path."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

SERVE = "from app.cli import main; main()"
ROOT = Path(__file__).parent.parent
PEERS = ROOT / "benchmarks" / ".venv" / "bin" / "python"
SETTINGS = Path(__file__).with_name("settings.json")
OURS, FLOOR = "vae serve", "floor"
SERVICE = "vae-service"
CONNECTIONS = (1, 8, 32, 64)


@dataclass(frozen=True, slots=True)
class Setting:
    """Setting of a peer: processes, threads of each, largest batch, and maximum wait of a batch."""

    processes: int = 2
    threads: int = 1
    batch: int = 1
    wait_ms: int = 0

    def environment(self) -> dict[str, str]:
        """The environment variables that pass the setting to the peer."""
        values = {"PROCESSES": self.processes, "THREADS": self.threads, "BATCH": self.batch, "WAIT_MS": self.wait_ms}
        return {f"BENCH_{name}": str(value) for name, value in values.items()}

    def __str__(self) -> str:
        batches = f"batches to {self.batch} within {self.wait_ms} ms" if self.batch > 1 else "no batches"
        return f"{self.processes} x {self.threads} threads, {batches}"


BATCHES = (Setting(batch=4, wait_ms=1), Setting(batch=8, wait_ms=1), Setting(batch=16, wait_ms=2))
LARGE_BATCHES = (Setting(batch=32, wait_ms=0), Setting(batch=32, wait_ms=1), Setting(batch=32, wait_ms=5))
PROCESS_PER_CORE, SINGLE_PROCESS = Setting(), Setting(processes=1, threads=2)
"""Settings without batches."""


@dataclass(frozen=True, slots=True)
class System:
    """A server that `command` starts in the folder `root`; the report has the version of `package`.

    `benchmarks.tuning` tries the settings `candidates`. A system with `one_operation` serves one
    operation at a time, because its idle processes poll.
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
        """The best settings for the model, each with the numbers of connections for which it is the best."""
        best = orjson.loads(SETTINGS.read_bytes())["best"][model][self.name] if self.candidates else {}
        chosen = {connections: Setting(**best.get(str(connections), {})) for connections in CONNECTIONS}
        for setting in dict.fromkeys(chosen.values()):
            yield setting, [connections for connections in CONNECTIONS if chosen[connections] == setting]


def service() -> System:
    """This service."""
    return next(system for system in systems() if system.name == OURS)


def earlier(checkout: Path) -> System:
    """Another version of this service, in a checkout such as `git worktree add ../before COMMIT` creates."""
    command = [sys.executable, "-c", SERVE, "serve"]
    return System(checkout.name, command, SERVICE, "an earlier version", root=checkout.resolve())


def systems() -> list[System]:
    """All systems, in the order of a round."""
    both = (PROCESS_PER_CORE, SINGLE_PROCESS)
    lit = [*both, *(Setting(processes=1, batch=batch, wait_ms=1) for batch in (8, 32)), *LARGE_BATCHES[1:]]
    ray = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}
    many = (*both, *BATCHES, *LARGE_BATCHES)
    return [
        System(OURS, [sys.executable, "-c", SERVE, "serve"], SERVICE, "default settings"),
        System("FastAPI", _peer("fastapi_plain"), "fastapi", "no batching", both),
        System("LitServe", _peer("litserve_peer"), "litserve", "2 API servers, fast queue", lit, one_operation=True),
        System("BentoML", _peer("bentoml_peer"), "bentoml", "no batching, which would add a hop", both),
        System("mosec", _peer("mosec_peer"), "mosec", "HTTP server in Rust", many),
        System("Ray Serve", _peer("ray_peer"), "ray", "behind its HAProxy", many, environment=ray),
        System(FLOOR, _peer("floor", sys.executable), "uvicorn", "the parts of the service in one file"),
    ]


def _peer(module: str, python: str = str(PEERS)) -> Sequence[str]:
    return [python, "-m", f"benchmarks.peers.{module}"]
