"""Rounds in which every contestant takes its turn, so that a slow minute of the machine falls on all of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.answers import require_equal
from benchmarks.arrivals import open_loop
from benchmarks.closed import Measured, closed_loop
from benchmarks.contestants import CEILING, CONNECTIONS, OURS, Contestant, Setting
from benchmarks.forward import raw_forward
from benchmarks.payloads import BULK, Payload, bulk, singles
from benchmarks.processor import processor_seconds
from benchmarks.servers import Server, ask, serving
from model.checkpoint import read_checkpoint

SHARES = (0.5, 0.8)


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: who, what, under which load."""

    model: str
    contestant: str
    operation: str
    load: str
    measured: Measured


@dataclass
class Course:
    """One model, what is asked of it, and how long each measurement takes."""

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
        """The raw forward and the parts of a lone request; see `raw_forward`."""
        body = self.answers / "picture"
        body.write_bytes(self.payloads["encode"].body)
        found = raw_forward(self.folder, body, self.seconds / 2)
        self._raw = found["images_per_second"]
        return found

    def turn(self, contestant: Contestant) -> Iterator[Row]:
        """Start the contestant in each of its settings, check its answers, warm it, measure it, end it."""
        for setting, connections in contestant.settings(self.name):
            ends = [callers for callers in connections if callers in (CONNECTIONS[0], CONNECTIONS[-1])]
            loads = {name: connections if name == "encode" else ends for name in self.payloads}
            wanted = {name: callers for name, callers in loads.items() if callers}
            for part in [{name: wanted[name]} for name in wanted] if contestant.one_operation else [wanted]:
                yield from self._visit(contestant, setting, part)

    def _visit(self, contestant: Contestant, setting: Setting, loads: Mapping[str, Sequence[int]]) -> Iterator[Row]:
        told = {"BENCH_ANSWERS": str(self.answers), "BENCH_OPERATIONS": ",".join(loads)}
        environment = {**setting.environment(), **told}
        with serving(contestant, self.folder, self.port, self.payloads[next(iter(loads))], environment) as server:
            for operation, connections in loads.items():
                payload = self.payloads[operation]
                self._check(contestant, operation, server.base, payload)
                closed_loop(server.base, payload, max(connections), 1)
                for load, measured in self._loads(server, payload, connections, whole=operation == "encode"):
                    yield Row(self.name, contestant.name, operation, load, measured)
            if contestant.name == OURS:
                found = self._closed(server, self.bulk, 4, max(3, self.seconds, 3 * 4 * BULK / self._raw))
                yield Row(self.name, OURS, f"encode {BULK} as npy", "4 connections", found)

    def _loads(
        self, server: Server, payload: Payload, connections: Sequence[int], *, whole: bool
    ) -> Iterator[tuple[str, Measured]]:
        for callers in connections:
            measured = self._closed(server, payload, callers, self.seconds)
            yield _connections(callers), measured
            if whole and callers == CONNECTIONS[-1] and measured.per_second:  # else no share of it
                for share in SHARES:
                    rate = share * measured.per_second
                    yield f"open, {share:.0%}", open_loop(server.base, payload, rate, self.seconds)

    def _closed(self, server: Server, payload: Payload, connections: int, seconds: float) -> Measured:
        before = processor_seconds(server.session)
        measured = closed_loop(server.base, payload, connections, seconds)
        spent = processor_seconds(server.session) - before
        return replace(measured, processor_ms=1000 * spent / max(1, measured.per_second * seconds))

    def _check(self, contestant: Contestant, operation: str, base: str, payload: Payload) -> None:
        answer, file = ask(base, payload), self.answers / operation
        if contestant.name == OURS:
            file.write_bytes(answer.content)
        elif contestant.name != CEILING:
            require_equal(f"{contestant.name}, {operation}", answer, file.read_bytes())


def _connections(count: int) -> str:
    return f"{count} connection{'s' if count > 1 else ''}"


def scratch() -> "TemporaryDirectory[str]":
    """Where the larger model and the answers lie while the benchmark runs."""
    return TemporaryDirectory(prefix="benchmark-")
