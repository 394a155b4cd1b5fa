"""The service and a few peers side by side, asked in turn within seconds: ratios that a slow minute leaves as they are.

For peers that do nothing while nobody asks them; LitServe's and Ray's processes poll.

python -m benchmarks.beside --model larger --peers FastAPI --connections 1
python -m benchmarks.beside --peers '' --before ../before     # beside an earlier version, checked out there
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated

import typer

from benchmarks.answers import require_equal
from benchmarks.closed import Measured, closed_loop
from benchmarks.contestants import OURS, Contestant, contestants, earlier
from benchmarks.models import folders
from benchmarks.payloads import Payload, singles
from benchmarks.rounds import scratch
from benchmarks.servers import Server, ask, serving
from model.checkpoint import read_checkpoint


def started(
    who: Contestant, model: str, folder: Path, port: int, load: int, asked: Payload
) -> AbstractContextManager[Server]:
    """The contestant in the setting that is its best for so many callers."""
    setting = next(setting for setting, loads in who.settings(model) if load in loads)
    told = {**setting.environment(), "BENCH_OPERATIONS": asked.path.strip("/")}
    return serving(who, folder, port, asked, told)


def in_turn(
    servers: Sequence[Server], asked: Payload, load: int, rounds: int, seconds: float
) -> Iterator[list[Measured]]:
    """What each server did in a round; every other round goes backwards."""
    for number in range(-1, rounds):
        order = range(len(servers))[:: 1 if number % 2 else -1]
        found = {place: closed_loop(servers[place].base, asked, load, seconds) for place in order}
        if number >= 0:  # the first is for warmth
            yield [found[place] for place in range(len(servers))]


def line(names: Sequence[str], rounds: Sequence[Sequence[Measured]]) -> str:
    """The service's throughput and its ratios to each peer: medians over the rounds, and quartiles."""
    told = [f"{median(ours.per_second for ours, *_ in rounds):.0f}/s"]
    for place, name in enumerate(names, 1):
        rates = [found[0].per_second / found[place].per_second for found in rounds]
        tails = [found[0].p99_ms / found[place].p99_ms for found in rounds]
        low, middle, high = quantiles(rates, n=4)
        told.append(f"{middle:.2f} ({low:.2f} to {high:.2f}) x {name}, p99 {median(tails):.2f} x")
    errors = sum(measured.errors for found in rounds for measured in found)
    return "; ".join([*told, *([f"{errors} errors"] if errors else [])])


def main(
    model: Annotated[str, typer.Option(help="small or larger.")] = "small",
    peers: Annotated[str, typer.Option(help="By name, comma-separated; '' for none.")] = "FastAPI,mosec",
    before: Annotated[Path | None, typer.Option(help="Folder of a checkout of an earlier version.")] = None,
    operation: Annotated[str, typer.Option(help="encode, decode or reconstruct.")] = "encode",
    connections: Annotated[str, typer.Option(help="How many callers, comma-separated.")] = "1,8,32,64",
    rounds: Annotated[int, typer.Option(help="How often everyone takes a turn.")] = 12,
    seconds: Annotated[float, typer.Option(help="How long a turn is, whole seconds.")] = 1,
    port: Annotated[int, typer.Option(help="The first of as many ports as there are servers.")] = 8720,
) -> None:
    """Measure the service in turn with its peers, all of them started at once."""
    known = {contestant.name: contestant for contestant in contestants()}
    names = [OURS, *filter(None, peers.split(","))]
    if before:
        known[before.name] = earlier(before)
        names.append(before.name)
    with scratch() as place:
        folder = folders(Path(place))[model]
        asked = singles(read_checkpoint(folder).vae.config)[operation]
        for load in map(int, connections.split(",")):
            with ExitStack() as stack:
                servers = [
                    stack.enter_context(started(known[name], model, folder, port + number, load, asked))
                    for number, name in enumerate(names)
                ]
                ours, *others = [ask(server.base, asked) for server in servers]
                for name, answer in zip(names[1:], others, strict=True):
                    require_equal(f"{name}, {operation}", answer, ours.content)
                found = list(in_turn(servers, asked, load, rounds, seconds))
            sys.stdout.write(f"{model}, {operation}, {load} callers: {line(names[1:], found)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    typer.run(main)
