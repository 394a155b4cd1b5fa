"""What the machine itself can do: the raw forward without HTTP, by the service's runtime, and the codec of one."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import orjson
import torch
from torch import Tensor

from app.operations import OPERATIONS
from app.runtime import Networks, networks
from app.settings import Settings
from benchmarks.peers.work import Work
from model.gaussian import DiagonalGaussian
from model.vae import VAE

BATCHES = (1, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Forward:
    """Images a second at each of `BATCHES`, and the milliseconds of one image: its forward, its codec."""

    per_second: list[float]
    forward_ms: float
    codec_ms: float


def raw_forward(model: Path, body: Path, seconds: float) -> dict[str, float]:
    """`images_per_second` of all cores at the best batch, `forward_ms` and `codec_ms` of one image.

    All cores are a process of one thread on each, or one of as many threads, whichever is faster; one image has one
    core or all, likewise.
    """
    cores = os.cpu_count() or 1
    apart = _together(model, body, seconds, threads=1, processes=cores)
    jointly = _together(model, body, seconds, threads=cores, processes=1)
    alone = min([*_together(model, body, seconds, threads=1, processes=1), *jointly], key=lambda f: f.forward_ms)
    best = max(max(map(sum, zip(*(f.per_second for f in found), strict=True))) for found in (apart, jointly))
    return {"images_per_second": best, "forward_ms": alone.forward_ms, "codec_ms": alone.codec_ms}


def _together(model: Path, body: Path, seconds: float, *, threads: int, processes: int) -> list[Forward]:
    words = [sys.executable, "-m", "benchmarks.forward", str(body), str(seconds), str(threads)]
    told = {**os.environ, "BENCH_MODEL": str(model)}
    running = [subprocess.Popen(words, env=told, stdout=subprocess.PIPE) for _ in range(processes)]  # noqa: S603
    return [Forward(**orjson.loads(process.communicate()[0])) for process in running]


class Codec(Work):
    """What a peer does to encode one picture, but the networks: their answer is there."""

    def __init__(self, body: bytes) -> None:
        super().__init__("encode", threads=1)
        self._body = body
        self.pixels = torch.from_numpy(self.read_png(body).copy())[None]
        with torch.inference_mode():
            self._known = super().posterior(self.pixels)

    def posterior(self, pixels: Tensor) -> DiagonalGaussian:  # noqa: ARG002  # known beforehand
        return self._known

    def once(self) -> Sequence[bytes]:
        """The answer to the picture."""
        return self([self._body])


@torch.inference_mode()
def measure(body: bytes, seconds: float, threads: int) -> Forward:
    """The figures of one process."""
    codec = Codec(body)
    made = networks(codec.vae, Settings(), torch.device("cpu"), threads, threads)
    alone = spent(encoding(made, made.exact, codec.pixels), seconds)
    batches = [codec.pixels.expand(n, -1, -1, -1).contiguous() for n in BATCHES]
    together = [spent(encoding(made, made.swift, batch), seconds) for batch in batches]
    rates = [n / s for n, s in zip(BATCHES, together, strict=True)]
    return Forward(rates, min(alone, together[0]) * 1000, spent(codec.once, seconds) * 1000)


def encoding(made: Networks, vae: VAE, pixels: Tensor) -> Callable[[], object]:
    """What the service does with pixels once they are there: by one of its VAEs, or by a program where it has one."""
    if program := made.programs.get("encode"):
        return partial(program, pixels.numpy())
    return partial(OPERATIONS["encode"], vae, pixels)


def spent(work: Callable[[], object], seconds: float) -> float:
    """The median time of one call, after a few to warm up."""
    for _ in range(3):
        work()
    took: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(took) < 3:
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return median(took)


if __name__ == "__main__":
    file, seconds, threads = sys.argv[1:]
    figures = measure(Path(file).read_bytes(), float(seconds), int(threads))
    sys.stdout.buffer.write(orjson.dumps(asdict(figures)))
