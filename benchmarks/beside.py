"""The service and other systems side by side, measured in turn within seconds, so that ratios are robust.

Only for systems that are idle without requests; the processes of LitServe and Ray poll.

python -m benchmarks.beside --model larger --peers FastAPI --connections 1
python -m benchmarks.beside --peers floor
python -m benchmarks.beside --connections 64 --arrivals 0.5,0.8   # also in the open loop, at shares of the capacity
python -m benchmarks.beside --peers '' --before ../before     # beside an earlier version, checked out there
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated

import typer

from benchmarks.answers import require_equal
from benchmarks.closed_loop import Measured
from benchmarks.cpu_time import closed_loop_with_cpu_time
from benchmarks.models import folders
from benchmarks.open_loop import open_loop
from benchmarks.payloads import Payload, singles
from benchmarks.schedule import scratch
from benchmarks.servers import Server, ask, serving
from benchmarks.systems import OURS, System, earlier, systems
from model.checkpoint import read_checkpoint


def started(
    system: System, model: str, folder: Path, port: int, load: int, payload: Payload
) -> AbstractContextManager[Server]:
    """Start the system in its best setting for this number of connections."""
    setting = next(setting for setting, loads in system.settings(model) if load in loads)
    environment = {**setting.environment(), "BENCH_OPERATIONS": payload.path.strip("/")}
    return serving(system, folder, port, payload, environment)


def in_turn(servers: Sequence[Server], measure: Callable[[Server], Measured], rounds: int) -> Iterator[list[Measured]]:
    """Yield the measurements of each round; the order of the servers alternates."""
    for number in range(-1, rounds):
        order = range(len(servers))[:: 1 if number % 2 else -1]
        found = {index: measure(servers[index]) for index in order}
        if number >= 0:  # the first one is a warm-up
            yield [found[index] for index in range(len(servers))]


def measured(
    what: str,
    names: Sequence[str],
    servers: Sequence[Server],
    payload: Payload,
    load: int,
    rounds: int,
    seconds: float,
    shares: Sequence[float],
) -> None:
    """Report the closed loop, and the open loop at shares of the throughput of the slowest server."""

    def closed(server: Server) -> Measured:
        return closed_loop_with_cpu_time(server, payload, load, seconds)

    def at_rate(rate: float) -> Callable[[Server], Measured]:
        return lambda server: open_loop(server.base, payload, rate, seconds)

    found = list(in_turn(servers, closed, rounds))
    report(f"{what}, {load} connections: {line(names, found)}")
    for share in shares:
        rate = share * capacity(found)
        latencies = list(in_turn(servers, at_rate(rate), rounds))
        report(f"{what}, {rate:.0f} arrivals/s ({share:.0%}): {tails(names, latencies)}")


def capacity(rounds: Sequence[Sequence[Measured]]) -> float:
    """The throughput of the slowest server: all servers can take a share of it."""
    rates: list[float] = [median(each.per_second for each in of_server) for of_server in zip(*rounds, strict=True)]
    return min(rates)


def tails(names: Sequence[str], rounds: Sequence[Sequence[Measured]]) -> str:
    """The p99 of the service, and its ratio to each peer: medians and quartiles."""
    parts = [f"p99 {median(ours.p99_ms for ours, *_ in rounds):.2f} ms"]
    for index, name in enumerate(names, 1):
        low, middle, high = quantiles([found[0].p99_ms / found[index].p99_ms for found in rounds], n=4)
        parts.append(f"{middle:.2f} ({low:.2f} to {high:.2f}) x {name}")
    return "; ".join(parts)


def line(names: Sequence[str], rounds: Sequence[Sequence[Measured]]) -> str:
    """Throughput and CPU time of the service, and their ratios to each peer: medians and quartiles."""
    spent = median(1000 * ours.cpu_ms for ours, *_ in rounds)
    parts = [f"{median(ours.per_second for ours, *_ in rounds):.0f}/s, {spent:.0f} us CPU"]
    for index, name in enumerate(names, 1):
        rates = [found[0].per_second / found[index].per_second for found in rounds]
        tails = [found[0].p99_ms / found[index].p99_ms for found in rounds]
        work = [found[0].cpu_ms / found[index].cpu_ms for found in rounds]
        low, middle, high = quantiles(rates, n=4)
        rate = f"{middle:.2f} ({low:.2f} to {high:.2f}) x {name}"
        parts.append(f"{rate}, p99 {median(tails):.2f} x, CPU {median(work):.2f} x")
    errors = sum(each.errors for found in rounds for each in found)
    return "; ".join([*parts, *([f"{errors} errors"] if errors else [])])


def report(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(
    model: Annotated[str, typer.Option(help="small or larger.")] = "small",
    peers: Annotated[str, typer.Option(help="By name, comma-separated; '' for none.")] = "FastAPI,mosec",
    before: Annotated[Path | None, typer.Option(help="Folder of a checkout of an earlier version.")] = None,
    operation: Annotated[str, typer.Option(help="encode, decode or reconstruct.")] = "encode",
    connections: Annotated[str, typer.Option(help="Numbers of connections, comma-separated.")] = "1,8,32,64",
    arrivals: Annotated[str, typer.Option(help="Open loop: shares of the slowest server's throughput.")] = "",
    rounds: Annotated[int, typer.Option(help="Number of rounds.")] = 12,
    seconds: Annotated[float, typer.Option(help="Whole seconds of each measurement.")] = 1,
    port: Annotated[int, typer.Option(help="The first port; each server has one.")] = 8720,
) -> None:
    """Measure the service in turn with its peers, all of which run at the same time."""
    known = {system.name: system for system in systems()}
    names = [OURS, *filter(None, peers.split(","))]
    if before:
        known[before.name] = earlier(before)
        names.append(before.name)
    shares = [float(share) for share in arrivals.split(",") if share]
    with scratch() as place:
        folder = folders(Path(place))[model]
        payload = singles(read_checkpoint(folder).vae.config)[operation]
        for load in map(int, connections.split(",")):
            with ExitStack() as stack:
                servers = [
                    stack.enter_context(started(known[name], model, folder, port + number, load, payload))
                    for number, name in enumerate(names)
                ]
                ours, *others = [ask(server.base, payload) for server in servers]
                for name, answer in zip(names[1:], others, strict=True):
                    require_equal(f"{name}, {operation}", answer, ours.content)
                measured(f"{model}, {operation}", names[1:], servers, payload, load, rounds, seconds, shares)


if __name__ == "__main__":
    typer.run(main)
