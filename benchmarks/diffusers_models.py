"""An autoencoder of diffusers through the service, beside its raw forward pass and a plain FastAPI server.

`python -m benchmarks.diffusers_models` writes a table of images per second. The model has random weights: AutoencoderKL
with few channels, or with those of Stable Diffusion. The raw forward pass has as many processes of one thread as the
service has workers, each with an equal part of the callers as its batch.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, cast

import diffusers
import numpy as np
import torch
import typer

from app.resources import with_worker_count
from app.runtimes.base import Target
from app.runtimes.selection import compile_model
from app.settings import Settings
from benchmarks.closed_loop import closed_loop
from benchmarks.forward import encoding, median_seconds
from benchmarks.payloads import Payload, png
from benchmarks.servers import serving
from benchmarks.systems import PROCESS_PER_CORE, ROOT, SINGLE_PROCESS, Setting, System, service
from model.formats import read_model

CHANNELS = {"small": (32, 64, 64, 64), "sd": (128, 256, 512, 512)}
"""Channels of each resolution: few, and those of Stable Diffusion."""

PLAIN = "FastAPI + diffusers"


def write_model(name: str, folder: Path) -> Path:
    """Write an AutoencoderKL with random weights."""
    torch.manual_seed(0)
    blocks, autoencoder = len(CHANNELS[name]), cast("Any", diffusers.AutoencoderKL)
    autoencoder(
        block_out_channels=CHANNELS[name],
        layers_per_block=2 if name == "sd" else 1,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        sample_size=128,
    ).save_pretrained(folder)
    return folder


def forward(folder: Path, size: int, batch: int, seconds: float) -> float:
    """Return the images per second that one process of one thread encodes."""
    torch.set_num_threads(1)
    model = read_model(folder).model
    compiled = compile_model(model, Settings(model=folder), Target(torch.device("cpu")))
    pixels = torch.zeros(batch, 3, size, size, dtype=torch.uint8)
    return batch / median_seconds(encoding(compiled, pixels), seconds)


def raw_forward(folder: Path, size: int, callers: int, seconds: float) -> float:
    """Return the images per second of all processes together."""
    processes = min(callers, with_worker_count(Settings()).workers)
    words = [sys.executable, "-m", "benchmarks.diffusers_models", "--raw", str(folder)]
    words += ["--size", str(size), "--callers", str(callers // processes), "--seconds", str(seconds)]
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(processes)]  # noqa: S603
    return sum(float(process.communicate()[0]) for process in running)


def main(
    model: Annotated[str, typer.Option(help="small or sd.")] = "small",
    size: Annotated[int, typer.Option(help="Pixels of a side of the images.")] = 128,
    callers: Annotated[str, typer.Option(help="Numbers of callers, comma-separated.")] = "1,4,16",
    seconds: Annotated[float, typer.Option(help="Seconds of each measurement.")] = 5,
    port: Annotated[int, typer.Option(help="Port of the servers, of which one runs at a time.")] = 8710,
    raw: Annotated[Path | None, typer.Option(help="Measure the forward pass of this model alone.")] = None,
) -> None:
    """Measure the service, the raw forward pass and the plain server, in turn."""
    if raw:
        typer.echo(forward(raw, size, int(callers), seconds))
        return
    counts = [*map(int, callers.split(","))]
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    payload = Payload("/encode", png(pixels), "image/png", "application/x-npy")
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_model(model, Path(scratch) / model)
        ours = {"VAE_WARM_SIZES": f"{size}x{size}", "VAE_LOG_LEVEL": "warning"}
        rows = {"service": _measured(service(), folder, port, payload, ours, counts, seconds)}
        rows["raw forward"] = [raw_forward(folder, size, count, seconds) for count in counts]
        for setting in (PROCESS_PER_CORE, SINGLE_PROCESS):
            values = setting.environment()
            name = f"{PLAIN}, {setting.processes} x {setting.threads} threads"
            rows[name] = _measured(_plain(setting), folder, port, payload, values, counts, seconds)
    typer.echo(f"| {model}, {size} x {size}, images/s | {' | '.join(f'{n} callers' for n in counts)} |")
    typer.echo(f"|---|{'---|' * len(counts)}")
    for name, rates in rows.items():
        typer.echo(f"| {name} | {' | '.join(f'{rate:.2f}' for rate in rates)} |")


def _plain(setting: Setting) -> System:
    command = [sys.executable, "-m", "benchmarks.peers.diffusers_plain"]
    return System(PLAIN, command, "fastapi", str(setting), root=ROOT)


def _measured(
    system: System,
    folder: Path,
    port: int,
    payload: Payload,
    environment: dict[str, str],
    counts: list[int],
    seconds: float,
) -> list[float]:
    """Return the requests per second for each number of callers."""
    with serving(system, folder, port, payload, {**os.environ, **environment}) as server:
        return [closed_loop(server.base, payload, count, seconds).per_second for count in counts]


if __name__ == "__main__":
    typer.run(main)
