"""Schedule of the measurements: in each round every system takes its turn, so that a slow minute affects all."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.answers import require_equal
from benchmarks.closed_loop import Measured, closed_loop
from benchmarks.cpu_time import closed_loop_with_cpu_time
from benchmarks.forward import raw_forward
from benchmarks.open_loop import open_loop
from benchmarks.payloads import BULK, Payload, bulk, singles
from benchmarks.servers import Server, ask, serving
from benchmarks.systems import CONNECTIONS, OURS, Setting, System
from model.checkpoint import read_checkpoint

SHARES = (0.5, 0.8)


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement of a system."""

    model: str
    system: str
    operation: str
    load: str
    measured: Measured


@dataclass
class Schedule:
    """The measurements with one model."""

    name: str
    folder: Path
    seconds: float
    port: int
    answers: Path
    payloads: dict[str, Payload] = field(init=False)
    bulk: Payload = field(init=False)
    _raw: float = field(init=False, default=1000.0)

    def __post_init__(self) -> None:
        config = read_checkpoint(self.folder).vae.config
        self.payloads, self.bulk = singles(config), bulk(config)
        self.answers.mkdir(parents=True, exist_ok=True)

    def limits(self) -> dict[str, float]:
        """Measure the limits of the machine; see `raw_forward`."""
        body = self.answers / "image"
        body.write_bytes(self.payloads["encode"].body)
        found = raw_forward(self.folder, body, self.seconds / 2)
        self._raw = found["images_per_second"]
        return found

    def turn(self, system: System) -> Iterator[Row]:
        """Start the system in each of its settings, check its responses, warm it up and measure it."""
        for setting, connections in system.settings(self.name):
            ends = [count for count in connections if count in (CONNECTIONS[0], CONNECTIONS[-1])]
            loads = {name: connections if name == "encode" else ends for name in self.payloads}
            wanted = {name: count for name, count in loads.items() if count}
            for part in [{name: wanted[name]} for name in wanted] if system.one_operation else [wanted]:
                yield from self._measure(system, setting, part)

    def _measure(self, system: System, setting: Setting, loads: Mapping[str, Sequence[int]]) -> Iterator[Row]:
        environment = {**setting.environment(), "BENCH_OPERATIONS": ",".join(loads)}
        with serving(system, self.folder, self.port, self.payloads[next(iter(loads))], environment) as server:
            for operation, connections in loads.items():
                payload = self.payloads[operation]
                self._check(system, operation, server.base, payload)
                closed_loop(server.base, payload, max(connections), 1)
                for load, measured in self._loads(server, payload, connections, with_open_loop=operation == "encode"):
                    yield Row(self.name, system.name, operation, load, measured)
            if system.name == OURS:
                found = closed_loop_with_cpu_time(server, self.bulk, 4, max(3, self.seconds, 3 * 4 * BULK / self._raw))
                yield Row(self.name, OURS, f"encode {BULK} as npy", "4 connections", found)

    def _loads(
        self, server: Server, payload: Payload, connections: Sequence[int], *, with_open_loop: bool
    ) -> Iterator[tuple[str, Measured]]:
        for count in connections:
            measured = closed_loop_with_cpu_time(server, payload, count, self.seconds)
            yield _connections(count), measured
            if with_open_loop and count == CONNECTIONS[-1] and measured.per_second:
                for share in SHARES:
                    rate = share * measured.per_second
                    yield f"open, {share:.0%}", open_loop(server.base, payload, rate, self.seconds)

    def _check(self, system: System, operation: str, base: str, payload: Payload) -> None:
        answer, file = ask(base, payload), self.answers / operation
        if system.name == OURS:
            file.write_bytes(answer.content)
        else:
            require_equal(f"{system.name}, {operation}", answer, file.read_bytes())


def _connections(count: int) -> str:
    return f"{count} connection{'s' if count > 1 else ''}"


def scratch() -> "TemporaryDirectory[str]":
    """A folder for the larger model and the responses of the service."""
    return TemporaryDirectory(prefix="benchmark-")
