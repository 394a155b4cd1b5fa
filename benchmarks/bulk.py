"""Many images in a request: arrays as .npy beside binary tensors of the Open Inference Protocol, by turns.

python -m benchmarks.bulk
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, NamedTuple

import typer

from benchmarks.closed_loop import closed_loop
from benchmarks.models import folders
from benchmarks.payloads import BULK, Payload, bulk, bulk_inference
from benchmarks.servers import ask, serving
from benchmarks.systems import service
from model.checkpoint import read_checkpoint
from tests.support.models import LARGE, write

CONNECTIONS = 4

LARGE_COUNT = 16
"""Images in a request to the model of large images."""

MEGABYTE = 1e6


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


def row(base: str, name: str, case: Case, rounds: int, seconds: float) -> str:
    """Return a row: images and megabytes per second in both forms, and the median of the ratios of the rounds."""
    rates: list[list[float]] = []
    for number in range(rounds):
        order = (0, 1) if number % 2 else (1, 0)
        found = {index: closed_loop(base, case.forms[index], CONNECTIONS, seconds).per_second for index in order}
        rates.append([found[0], found[1]])
    sizes = [len(form.body) + len(ask(base, form).content) for form in case.forms]
    columns = [median(column) for column in zip(*rates, strict=True)]
    images = " | ".join(f"{rate * case.images:.0f}" for rate in columns)
    megabytes = " | ".join(f"{rate * size / MEGABYTE:.0f}" for rate, size in zip(columns, sizes, strict=True))
    ratio = median(binary / npy for npy, binary in rates)
    return f"| {name}, {case.operation}, {case.images} images | {images} | {megabytes} | {ratio:.2f} |"


def main(
    rounds: Annotated[int, typer.Option(help="Rounds, in each of which both forms have a turn.")] = 5,
    seconds: Annotated[float, typer.Option(help="Seconds of each turn.")] = 2,
) -> None:
    """Measure bulk requests in both forms."""
    head = "| request | images/s, npy | binary | MB/s, npy | binary | binary of npy |\n|---|---|---|---|---|---|\n"
    sys.stdout.write(head)
    with TemporaryDirectory() as scratch:
        models = {
            "small": (folders(Path(scratch))["small"], BULK),
            "256x256x3": (Path(scratch) / "images", LARGE_COUNT),
        }
        write(models["256x256x3"][0], LARGE)
        for name, (folder, count) in models.items():
            requests = [*cases(folder, count)]
            with serving(service(), folder, 8841, requests[0].forms[0], {}) as server:
                for case in requests:
                    sys.stdout.write(row(server.base, name, case, rounds, seconds) + "\n")


if __name__ == "__main__":
    typer.run(main)
