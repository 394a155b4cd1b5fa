"""Many images in a request: arrays as .npy beside binary tensors of the Open Inference Protocol, by turns.

python -m benchmarks.bulk
python -m benchmarks.bulk --peer ../kserve/bin/python     # beside KServe's Python server, in an environment of its own
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, NamedTuple

import typer

from benchmarks.closed_loop import closed_loop
from benchmarks.models import folders
from benchmarks.payloads import BULK, Payload, bulk, bulk_inference
from benchmarks.servers import ask, serving
from benchmarks.systems import SINGLE_PROCESS, System, service
from model.checkpoint import read_checkpoint
from tests.support.models import LARGE, write

CONNECTIONS = 4

LARGE_COUNT = 16
"""Images in a request to the model of large images."""

MEGABYTE = 1e6

Turn = tuple[str, Payload]
"""The base URL of a server, and the request that it gets."""


class Case(NamedTuple):
    """Requests for one operation with so many images, as .npy and as a binary tensor."""

    operation: str
    images: int
    forms: tuple[Payload, Payload]


def cases(folder: Path, count: int) -> Iterator[Case]:
    """Yield requests to a model that get latents, and that get images."""
    config = read_checkpoint(folder).vae.config
    for operation in ("encode", "reconstruct"):
        yield Case(operation, count, (bulk(config, operation, count), bulk_inference(config, operation, count)))


def row(turns: Sequence[Turn], name: str, case: Case, rounds: int, seconds: float) -> str:
    """Return a row: images and megabytes per second in each turn, and the medians of the ratios of the rounds.

    The ratios are those of binary tensors to .npy, and to binary tensors of the peer if there is one.
    """
    rates: list[list[float]] = []
    for number in range(rounds):
        order = range(len(turns))[:: 1 if number % 2 else -1]
        found = {index: measured(turns[index], seconds) for index in order}
        rates.append([found[index] for index in range(len(turns))])
    sizes = [len(form.body) + len(ask(base, form).content) for base, form in turns]
    columns = [median(column) for column in zip(*rates, strict=True)]
    cells = [f"{name}, {case.operation}, {case.images} images", *(f"{rate * case.images:.0f}" for rate in columns)]
    cells += [f"{rate * size / MEGABYTE:.0f}" for rate, size in zip(columns, sizes, strict=True)]
    cells += [f"{median(found[1] / found[other] for found in rates):.2f}" for other in (0, *range(2, len(turns)))]
    return f"| {' | '.join(cells)} |"


def measured(turn: Turn, seconds: float) -> float:
    """Return the requests per second of a turn; it ends when the server has no request in flight."""
    rate = closed_loop(*turn, CONNECTIONS, seconds).per_second
    ask(*turn)
    return rate


def head(names: Sequence[str]) -> str:
    """Return the head of the table, of turns with these names."""
    cells = ["request", *(f"{name}, {unit}" for unit in ("images/s", "MB/s") for name in names)]
    cells += [f"binary of {names[other]}" for other in (0, *range(2, len(names)))]
    return f"| {' | '.join(cells)} |\n{'|---' * len(cells)}|\n"


def kserve(python: Path) -> System:
    """Return the Python server of KServe, which speaks the same protocol with binary tensors."""
    return System("KServe", [str(python), "-m", "benchmarks.peers.kserve_peer"], "kserve", "no batching")


def main(
    rounds: Annotated[int, typer.Option(help="Rounds, in each of which all forms have a turn.")] = 5,
    seconds: Annotated[float, typer.Option(help="Seconds of each turn.")] = 2,
    port: Annotated[int, typer.Option(help="Port of the service; a peer has the next one.")] = 8841,
    peer: Annotated[Path | None, typer.Option(help="Python of an environment with kserve and torch, the peer.")] = None,
) -> None:
    """Measure bulk requests in both forms."""
    sys.stdout.write(head(["npy", "binary", *(["KServe"] if peer else [])]))
    with TemporaryDirectory() as scratch:
        models = {
            "small": (folders(Path(scratch))["small"], BULK),
            "256x256x3": (Path(scratch) / "images", LARGE_COUNT),
        }
        write(models["256x256x3"][0], LARGE)
        for name, (folder, count) in models.items():
            requests = [*cases(folder, count)]
            npy, binary = requests[0].forms
            with ExitStack() as stack:
                ours = stack.enter_context(serving(service(), folder, port, npy, {})).base
                bases = [ours, ours]
                if peer:
                    settings = SINGLE_PROCESS.environment()
                    bases.append(stack.enter_context(serving(kserve(peer), folder, port + 1, binary, settings)).base)
                for case in requests:
                    turns = [*zip(bases, (*case.forms, case.forms[1]), strict=False)]
                    sys.stdout.write(row(turns, name, case, rounds, seconds) + "\n")
                    sys.stdout.flush()


if __name__ == "__main__":
    typer.run(main)
