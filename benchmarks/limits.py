"""The throughput of the service as a share of the raw forward pass, measured in turn within each round.

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
from benchmarks.closed_loop import closed_loop
from benchmarks.forward import Codec, encoding, median_seconds, raw_forward
from benchmarks.models import folders
from benchmarks.payloads import BULK, bulk, singles
from benchmarks.schedule import scratch
from benchmarks.servers import serving
from benchmarks.systems import CONNECTIONS, service
from model.checkpoint import read_checkpoint
from model.formats.native import model_of

MAX_CONNECTIONS = CONNECTIONS[-1]


@dataclass(frozen=True, slots=True)
class Kept:
    """Shares of the raw forward pass with many connections and in bulk, and the overhead of one request in ms."""

    single_images: float
    bulk: float
    more_ms: float


def rounds(folder: Path, count: int, seconds: float, port: int) -> Iterator[Kept]:
    """Measure the service and the forward pass in turn; each one rests meanwhile."""
    os.environ["BENCH_MODEL"] = str(folder)
    config = read_checkpoint(folder).vae.config
    payload, many = singles(config)["encode"], bulk(config)
    with serving(service(), folder, port, payload, {}) as server, tempfile.NamedTemporaryFile() as body:
        body.write(payload.body)
        body.flush()
        single = SingleImage(payload.body)
        closed_loop(server.base, payload, MAX_CONNECTIONS, seconds)  # warm-up
        for _ in range(count):
            more = [closed_loop(server.base, payload, 1, seconds / 2).p50_ms - single.ms(seconds / 4) for _ in range(4)]
            raw = raw_forward(folder, Path(body.name), seconds / 4)["images_per_second"]
            many_clients = closed_loop(server.base, payload, MAX_CONNECTIONS, seconds).per_second
            array = closed_loop(server.base, many, 4, max(seconds, 3 * 4 * BULK / raw)).per_second * BULK
            yield Kept(many_clients / raw, array / raw, median(more))


class SingleImage:
    """Forward pass and codec of one image, with the threads that the service uses for it."""

    def __init__(self, body: bytes) -> None:
        self._codec = Codec(body)
        target = Target(torch.device("cpu"), "float32", 1, available_cpus())
        compiled = compile_model(model_of(self._codec.vae), Settings(), target)
        self._forward = encoding(compiled, self._codec.pixels, single=True)

    @torch.inference_mode()
    def ms(self, seconds: float) -> float:
        """Milliseconds of forward pass and codec."""
        return 1000 * (median_seconds(self._forward, seconds) + median_seconds(self._codec.once, seconds / 4))


def main(
    model: Annotated[str, typer.Option(help="small or larger.")] = "larger",
    count: Annotated[int, typer.Option("--rounds", help="Number of rounds.")] = 5,
    seconds: Annotated[float, typer.Option(help="Seconds of each measurement.")] = 2,
    port: Annotated[int, typer.Option(help="Port of the service.")] = 8730,
) -> None:
    """Print medians and quartiles over the rounds."""
    with scratch() as place:
        found = list(rounds(folders(Path(place))[model], count, seconds, port))
    for name, values in (
        (f"share of the raw forward pass, {MAX_CONNECTIONS} connections", [kept.single_images for kept in found]),
        (f"share of the raw forward pass, {BULK} images as npy", [kept.bulk for kept in found]),
        ("overhead of one request over forward pass and codec, ms", [kept.more_ms for kept in found]),
    ):
        low, _, high = quantiles(values, n=4)
        sys.stdout.write(f"{model}, {name}: {median(values):.2f} ({low:.2f} to {high:.2f})\n")


if __name__ == "__main__":
    typer.run(main)
