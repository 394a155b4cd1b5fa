"""The service on a GPU: throughput and latency under each load, and its share of the raw forward pass.

python -m benchmarks.gpu --workers 1,4
"""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from app.inference.device import TorchDevice, configure_torch
from app.runtimes.operations import OPERATIONS
from app.runtimes.torch_eager import TorchRuntime
from app.settings import Settings
from benchmarks.closed_loop import closed_loop
from benchmarks.forward import Codec, median_seconds
from benchmarks.models import folders
from benchmarks.payloads import BULK, bulk, singles
from benchmarks.schedule import scratch
from benchmarks.servers import serving
from benchmarks.systems import CONNECTIONS, service
from model.checkpoint import read_checkpoint
from model.device import autocast
from model.formats.native import model_of

BATCHES = (1, 64, 256, 1024)
BULK_CONNECTIONS = (4, 16)
"""Connections that send bulk requests."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Images per second at the best of `BATCHES`, and forward pass and codec of one image in ms."""

    per_second: float
    forward_ms: float
    codec_ms: float


@torch.inference_mode()
def limit(folder: Path, body: bytes, settings: Settings) -> Limit:
    """Measure the networks as CUDA graphs with pixels on the GPU, and the codec on the CPU."""
    os.environ["BENCH_MODEL"] = str(folder)
    codec = Codec(body)
    configure_torch(settings)
    target = TorchDevice(settings).target
    model = TorchRuntime().compile(model_of(codec.vae), target).model

    def encode(x: Tensor) -> tuple[Tensor, ...]:
        with autocast(target.precision, target.device):
            return OPERATIONS["encode"](model, x)

    took = {
        n: median_seconds(_replayed(encode, codec.pixels.expand(n, -1, -1, -1).to(target.device)), 0.5) for n in BATCHES
    }
    best = max(n / seconds for n, seconds in took.items())
    return Limit(best, 1000 * took[1], 1000 * median_seconds(codec.once, 0.5))


def _replayed(operation: Callable[[Tensor], object], x: Tensor) -> Callable[[], None]:
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call]  # untyped in torch
    with torch.cuda.stream(stream):
        operation(x)
    with torch.cuda.graph(graph, stream=stream):
        kept = operation(x)

    def replay(_kept: object = kept) -> None:
        graph.replay()
        torch.cuda.synchronize()

    return replay


def lines(name: str, folder: Path, workers: str, seconds: float, found: Limit) -> Iterator[str]:
    """Yield the rows of the table as they are measured."""
    config = read_checkpoint(folder).vae.config
    payloads, many = singles(config), bulk(config)
    with serving(service(), folder, 8700, payloads["encode"], {"VAE_WORKERS": workers}) as server:
        closed_loop(server.base, payloads["encode"], max(CONNECTIONS), 1)  # warm-up
        for operation, payload in payloads.items():
            for connections in CONNECTIONS if operation == "encode" else (CONNECTIONS[0], CONNECTIONS[-1]):
                seen = closed_loop(server.base, payload, connections, seconds)
                more = seen.p50_ms - found.forward_ms - found.codec_ms
                to_limit = f"+ {more:.2f} ms" if connections == 1 and operation == "encode" else ""
                figures = f"{seen.per_second:.0f}/s | {seen.p50_ms:.2f}, {seen.p99_ms:.2f} | {seen.errors}"
                yield f"| {name} | {workers} | {operation} | {connections} | {figures} | {to_limit} |"
        for connections in BULK_CONNECTIONS:
            seen = closed_loop(server.base, many, connections, seconds)
            figures = f"{seen.per_second * BULK:.0f}/s | {seen.p50_ms:.1f}, {seen.p99_ms:.1f} | {seen.errors}"
            share = seen.per_second * BULK / found.per_second
            yield f"| {name} | {workers} | encode {BULK} as npy | {connections} | {figures} | {share:.2f} |"


def main(
    workers: Annotated[str, typer.Option(help="Numbers of workers, comma-separated; 0 for the default.")] = "0",
    models: Annotated[str, typer.Option(help="small, larger or both, comma-separated.")] = "small,larger",
    seconds: Annotated[float, typer.Option(help="Seconds of each measurement.")] = 2,
) -> None:
    """Measure the service with the settings of VAE_* variables on one GPU, with wrk on the same machine."""
    sys.stdout.write(f"{torch.cuda.get_device_name()}, {os.cpu_count()} cores, torch {torch.__version__}\n\n")
    sys.stdout.write(
        "| model | workers | work | connections | requests, or images | p50, p99 ms | errors | to the limit |\n"
    )
    sys.stdout.write("|---" * 8 + "|\n")
    with scratch() as place:
        known = folders(Path(place))
        for name in models.split(","):
            folder = known[name]
            body = singles(read_checkpoint(folder).vae.config)["encode"].body
            found = limit(folder, body, Settings(device="cuda"))
            sys.stdout.write(
                f"| {name} | | raw forward | | {found.per_second:.0f}/s | {found.forward_ms:.3f} | | "
                f"codec {found.codec_ms:.3f} ms |\n"
            )
            for number in workers.split(","):
                for line in lines(name, folder, number, seconds, found):
                    sys.stdout.write(line + "\n")
                    sys.stdout.flush()


if __name__ == "__main__":
    typer.run(main)
