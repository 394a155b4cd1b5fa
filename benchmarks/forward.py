"""Limits of the machine: the forward pass without HTTP in the runtime of the service, and the codec of one image."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import prod
from pathlib import Path
from statistics import median

import numpy as np
import orjson
import torch
from torch import Tensor

from app.api.responses import latents_json
from app.batching.rows import RowBatch
from app.codecs.images import decode_images, probe_images
from app.runtimes.base import CompiledModel, Target
from app.runtimes.selection import compile_model
from app.settings import Settings
from benchmarks.peers.work import model_folder
from model.checkpoint import read_checkpoint
from model.formats.native import model_of

BATCHES = (8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Forward:
    """Images per second for each batch size, and forward pass and codec of one image in ms."""

    per_second: list[float]
    forward_ms: float
    codec_ms: float


def raw_forward(model: Path, body: Path, seconds: float) -> dict[str, float]:
    """Measure `images_per_second` of all cores at the best batch size, and `forward_ms` and `codec_ms` of one image.

    All cores are used by one thread in each of several processes, or by several threads in one process; the faster way
    counts. The best result is measured again, because the maximum of several measurements is biased.
    """
    cores = os.cpu_count() or 1
    ways = ((1, cores), (cores, 1))
    found = {way: _together(model, body, seconds, *way, BATCHES) for way in ways}
    alone = min([*_together(model, body, seconds, 1, 1, ()), *found[cores, 1]], key=lambda f: f.forward_ms)
    rates = {
        (way, batch): sum(f.per_second[place] for f in found[way])
        for way in ways
        for place, batch in enumerate(BATCHES)
    }
    way, batch = max(rates, key=rates.__getitem__)
    again = _together(model, body, 4 * seconds, *way, (batch,))
    best = sum(f.per_second[0] for f in again)
    return {"images_per_second": best, "forward_ms": alone.forward_ms, "codec_ms": alone.codec_ms}


def _together(
    model: Path, body: Path, seconds: float, threads: int, processes: int, batches: Sequence[int]
) -> list[Forward]:
    words = [sys.executable, "-m", "benchmarks.forward", str(body), str(seconds), str(threads), *map(str, batches)]
    environment = {**os.environ, "BENCH_MODEL": str(model)}
    running = [subprocess.Popen(words, env=environment, stdout=subprocess.PIPE) for _ in range(processes)]  # noqa: S603
    return [Forward(**orjson.loads(process.communicate()[0])) for process in running]


class Codec:
    """The work of the service for one image without the networks; their result is computed in advance."""

    def __init__(self, body: bytes) -> None:
        checkpoint = read_checkpoint(model_folder())
        self.vae, self._model, self._body = checkpoint.vae, checkpoint.identity, body
        self.pixels = torch.from_numpy(self._read())
        with torch.inference_mode():
            q = self.vae.posterior(self.pixels.float() / 255)
        self._rows = [q.mean.numpy(), q.logvar.numpy()]

    def once(self) -> bytes:
        """Decode the image and build the response."""
        self._read()
        return latents_json(self._rows, self._model)

    def _read(self) -> np.ndarray:
        shape = self.vae.config.image_shape
        return decode_images(probe_images([self._body], shape, prod(shape)), shape, "resize")


@torch.inference_mode()
def measure(body: bytes, seconds: float, threads: int, batches: Sequence[int]) -> Forward:
    """Measure in one process."""
    torch.set_num_threads(threads)
    codec = Codec(body)
    compiled = compile_model(model_of(codec.vae), Settings(), Target(torch.device("cpu"), "float32", threads, threads))
    encodings = (encoding(compiled, codec.pixels, deterministic=deterministic) for deterministic in (False, True))
    alone = min(median_seconds(encode, seconds) for encode in encodings)
    batch_inputs = [codec.pixels.expand(n, -1, -1, -1).contiguous() for n in batches]
    rates = [
        n / median_seconds(encoding(compiled, batch), seconds) for n, batch in zip(batches, batch_inputs, strict=True)
    ]
    return Forward(rates, alone * 1000, median_seconds(codec.once, seconds) * 1000)


def encoding(
    compiled: CompiledModel, pixels: Tensor, *, deterministic: bool = False, single: bool = False
) -> Callable[[], object]:
    """The function that encodes pixels as the service does."""
    rows = RowBatch((pixels.numpy(),))
    return partial(compiled.run, "encode", rows, deterministic=deterministic, single=single)


def median_seconds(work: Callable[[], object], seconds: float) -> float:
    """The median time of a call, after a warm-up."""
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
    file, seconds, threads, *batches = sys.argv[1:]
    figures = measure(Path(file).read_bytes(), float(seconds), int(threads), [*map(int, batches)])
    sys.stdout.buffer.write(orjson.dumps(asdict(figures)))
