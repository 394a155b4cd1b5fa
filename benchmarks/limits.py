"""What the service keeps of what its machine can do: in turn within each round, so that a slow minute falls on both.

python -m benchmarks.limits --model larger
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated

import torch
import typer

from app.resources import available_cpus
from app.runtimes.base import Target
from app.runtimes.selection import compile_model
from app.settings import Settings
from benchmarks.closed import closed_loop
from benchmarks.contestants import CONNECTIONS, service
from benchmarks.forward import Codec, encoding, raw_forward, spent
from benchmarks.models import folders
from benchmarks.payloads import BULK, bulk, singles
from benchmarks.rounds import scratch
from benchmarks.servers import serving
from model.checkpoint import read_checkpoint
from model.formats.native import model_of

CROWD = CONNECTIONS[-1]


@dataclass(frozen=True, slots=True)
class Kept:
    """Shares of the raw forward: a crowd's and bulk's; how much longer one takes than its forward and codec, ms."""

    crowd: float
    bulk: float
    more_ms: float


def rounds(folder: Path, count: int, seconds: float, port: int) -> Iterator[Kept]:
    """In each the service rests while the forward runs, and the other way round."""
    os.environ["BENCH_MODEL"] = str(folder)
    config = read_checkpoint(folder).vae.config
    asked, many = singles(config)["encode"], bulk(config)
    with serving(service(), folder, port, asked, {}) as server, tempfile.NamedTemporaryFile() as body:
        body.write(asked.body)
        body.flush()
        lone = Lone(asked.body)
        closed_loop(server.base, asked, CROWD, seconds)  # for warmth
        for _ in range(count):
            more = [closed_loop(server.base, asked, 1, seconds / 2).p50_ms - lone.ms(seconds / 4) for _ in range(4)]
            raw = raw_forward(folder, Path(body.name), seconds / 4)["images_per_second"]
            crowd = closed_loop(server.base, asked, CROWD, seconds).per_second
            array = closed_loop(server.base, many, 4, max(seconds, 3 * 4 * BULK / raw)).per_second * BULK
            yield Kept(crowd / raw, array / raw, median(more))


class Lone:
    """One image that the machine computes and nothing else: on one core or on all, as the service does."""

    def __init__(self, body: bytes) -> None:
        self._codec = Codec(body)
        target = Target(torch.device("cpu"), "float32", 1, available_cpus())
        compiled = compile_model(model_of(self._codec.vae), Settings(), target)
        self._forward = encoding(compiled, self._codec.pixels, single=True)

    @torch.inference_mode()
    def ms(self, seconds: float) -> float:
        """Its forward and its codec."""
        return 1000 * (spent(self._forward, seconds) + spent(self._codec.once, seconds / 4))


def main(
    model: Annotated[str, typer.Option(help="small or larger.")] = "larger",
    count: Annotated[int, typer.Option("--rounds", help="How often everything is measured.")] = 5,
    seconds: Annotated[float, typer.Option(help="How long each load lasts.")] = 2,
    port: Annotated[int, typer.Option(help="Where the service listens.")] = 8730,
) -> None:
    """Print medians over the rounds, and quartiles."""
    with scratch() as place:
        found = list(rounds(folders(Path(place))[model], count, seconds, port))
    for name, values in (
        (f"share of the raw forward, {CROWD} callers", [kept.crowd for kept in found]),
        (f"share of the raw forward, {BULK} images as npy", [kept.bulk for kept in found]),
        ("a lone request beyond forward and codec, ms", [kept.more_ms for kept in found]),
    ):
        low, _, high = quantiles(values, n=4)
        sys.stdout.write(f"{model}, {name}: {median(values):.2f} ({low:.2f} to {high:.2f})\n")


if __name__ == "__main__":
    typer.run(main)
