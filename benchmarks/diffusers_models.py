"""An autoencoder of diffusers through the service, beside its raw forward pass and a plain FastAPI server.

`python -m benchmarks.diffusers_models` writes images per second and ratios. The model has random weights: AutoencoderKL
with few channels, or with those of Stable Diffusion. The raw forward pass has as many processes of one thread as the
service has workers, each with an equal part of the callers as its batch. `--pair FOLDER` takes an ONNX pair, exported
from the model that `--write FOLDER` writes, into the comparison. Where an image takes seconds, `--waves 1` measures the
time until each caller has one answer, in place of `--seconds`.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any, cast

import diffusers
import httpx
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

LONGEST_SECONDS = 300
"""Deadline of a request where an image takes seconds."""


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


def forward(folder: Path, size: int, batch: int, seconds: float, waves: int) -> float:
    """Return the images per second that one process of one thread encodes, over some time or in a number of batches."""
    torch.set_num_threads(1)
    model = read_model(folder).model
    compiled = compile_model(model, Settings(model=folder), Target(torch.device("cpu")))
    pixels = torch.zeros(batch, 3, size, size, dtype=torch.uint8)
    encode = encoding(compiled, pixels)
    if not waves:
        return batch / median_seconds(encode, seconds)
    encoding(compiled, pixels[:1])()
    start = time.perf_counter()
    for _ in range(waves):
        encode()
    return waves * batch / (time.perf_counter() - start)


def raw_forward(folder: Path, size: int, callers: int, seconds: float, waves: int) -> float:
    """Return the images per second of all processes together."""
    processes = min(callers, with_worker_count(Settings()).workers)
    words = [sys.executable, "-m", "benchmarks.diffusers_models", "--raw", str(folder)]
    words += [
        "--size",
        str(size),
        "--callers",
        str(callers // processes),
        "--seconds",
        str(seconds),
        "--waves",
        str(waves),
    ]
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(processes)]  # noqa: S603
    return sum(float(process.communicate()[0]) for process in running)


def answered(base: str, payload: Payload, callers: int, waves: int) -> float:
    """Return the requests per second of callers that send so many requests each, one after another."""
    headers = {"content-type": payload.media, "accept": payload.accept}

    def call(_: int) -> None:
        for _ in range(waves):
            url = base + payload.path
            httpx.post(url, content=payload.body, headers=headers, timeout=LONGEST_SECONDS).raise_for_status()

    start = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(call, range(callers)))
    return callers * waves / (time.perf_counter() - start)


def main(
    model: Annotated[str, typer.Option(help="small or sd.")] = "small",
    size: Annotated[int, typer.Option(help="Pixels of a side of the images.")] = 128,
    callers: Annotated[str, typer.Option(help="Numbers of callers, comma-separated.")] = "1,4,16",
    rounds: Annotated[int, typer.Option(help="Number of rounds, over which medians are taken.")] = 5,
    seconds: Annotated[float, typer.Option(help="Seconds of each measurement.")] = 3,
    waves: Annotated[int, typer.Option(help="Requests of each caller, in place of seconds.")] = 0,
    pair: Annotated[
        Path | None, typer.Option(help="An exported pair, for the service and the raw forward pass.")
    ] = None,
    write: Annotated[Path | None, typer.Option(help="Write the model into this folder, and measure nothing.")] = None,
    port: Annotated[int, typer.Option(help="The first port; each server has one.")] = 8710,
    raw: Annotated[Path | None, typer.Option(help="Measure the forward pass of this model alone.")] = None,
) -> None:
    """Measure the service in turn with the raw forward pass and the plain server, which run at the same time."""
    if raw:
        typer.echo(forward(raw, size, int(callers), seconds, waves))
        return
    if write:
        write_model(model, write)
        return
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    payload = Payload("/encode", png(pixels), "image/png", "application/x-npy")
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = write_model(model, Path(scratch) / model)
        served = pair or folder
        ours = {"VAE_WARM_SIZES": f"{size}x{size}", "VAE_LOG_LEVEL": "warning"}
        ours |= {"VAE_REQUEST_TIMEOUT_S": str(LONGEST_SECONDS)} if waves else {}
        systems = {"service": (service(), served, ours)} | {
            f"{PLAIN}, {setting.processes} x {setting.threads} threads": (
                _plain(setting),
                folder,
                setting.environment(),
            )
            for setting in (PROCESS_PER_CORE, SINGLE_PROCESS)
        }
        systems |= {"service with torch": (service(), folder, ours)} if pair else {}
        servers = {
            name: stack.enter_context(serving(system, source, port + number, payload, {**os.environ, **values}))
            for number, (name, (system, source, values)) in enumerate(systems.items())
        }
        for count in map(int, callers.split(",")):
            rates: defaultdict[str, list[float]] = defaultdict(list)
            for _ in range(rounds):
                for name, server in servers.items():
                    rates[name].append(
                        answered(server.base, payload, count, waves)
                        if waves
                        else closed_loop(server.base, payload, count, seconds).per_second
                    )
                rates["raw forward"].append(raw_forward(served, size, count, seconds, waves))
            typer.echo(f"{model}, {size} x {size}, {count} callers: {_line(rates)}")


def _line(rates: Mapping[str, Sequence[float]]) -> str:
    """The images per second of the service, and its ratio to the others: medians and quartiles over the rounds."""
    ours, parts = rates["service"], [f"{median(rates['service']):.2f}/s"]
    for name, theirs in rates.items():
        if name != "service":
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            low, middle, high = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            parts.append(f"{middle:.2f} ({low:.2f} to {high:.2f}) x {name}")
    return "; ".join(parts)


def _plain(setting: Setting) -> System:
    command = [sys.executable, "-m", "benchmarks.peers.diffusers_plain"]
    return System(PLAIN, command, "fastapi", str(setting), root=ROOT)


if __name__ == "__main__":
    typer.run(main)
