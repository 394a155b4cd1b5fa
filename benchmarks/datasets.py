"""Whole data sets: `encode_dataset` beside the forward pass and the decoding alone, a plain script, and the service.

python -m benchmarks.datasets --rounds 5
python -m benchmarks.datasets --npy-images 5000 --jpeg-images 500 --only npy

Each measurement is a process of its own; the systems take turns. CPU time of an image counts as well as its time, as it
is robust on a busy machine.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import httpx
import numpy as np
import psutil
import torch
import typer
from PIL import Image
from vae_client import Client

from app.codecs.images import configure_pillow_limits
from app.context import Operation
from app.datasets.computation import BatchComputation
from app.datasets.decoding import ImageDecoder, Sizes
from app.datasets.encode import encode_dataset
from app.datasets.options import EncodeOptions, Hardware
from app.datasets.pipeline import chunks, in_order
from app.datasets.sources import open_source
from benchmarks.models import folders
from model.formats import load
from tests.support import diffusers_models
from tests.support.live_server import free_port

CORES = len(os.sched_getaffinity(0))
CROP = 256
"""Pixels of the side of the crops of photographs."""

SYSTEMS = ("forward", "decode", "dataset", "script", "http")


class Measured(NamedTuple):
    """Images per second, CPU milliseconds of an image, and MiB of memory at most."""

    rate: float
    cpu_ms: float
    memory: float


class Case(NamedTuple):
    """A data set and a model."""

    name: str
    source: Path
    model: Path
    bucket: tuple[tuple[int, int], ...] = ()


def cases(scratch: Path, npy_images: int, jpeg_images: int, only: str) -> Iterator[Case]:
    """Write the data sets and the models of the cases that are measured."""
    models = folders(scratch)
    if only in ("", "npy"):
        images = np.random.default_rng(0).integers(0, 256, (npy_images, 28, 28), np.uint8)
        np.save(scratch / "images.npy", images)
        yield Case("npy", scratch / "images.npy", models["small"])
    if only != "npy":
        write_photographs(scratch / "photos", jpeg_images)
    if only in ("", "jpeg"):
        yield Case("jpeg", scratch / "photos", models["larger"])
    if only in ("", "jpeg-kl"):
        autoencoder = diffusers_models.write(scratch / "kl", "kl")
        yield Case("jpeg-kl", scratch / "photos", autoencoder, ((CROP, CROP),))


def write_photographs(folder: Path, count: int) -> None:
    """Write JPEG files that are about as detailed as photographs."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        noise = random.integers(0, 256, (CROP // 8, CROP // 8, 3), np.uint8)
        picture = Image.fromarray(noise).resize((CROP, CROP), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:05d}.jpg", quality=90)


def decoded(case: Case, executor: Any, decoder: ImageDecoder) -> Iterator[np.ndarray]:
    """Decode all images of a case in threads."""
    entries = chunks(open_source(case.source).entries(), 64)
    for images in in_order(executor, decoder.decode, entries, 2 * CORES):
        yield from images.pixels.values()


def forward(case: Case, out: Path, computation: BatchComputation, decoder: ImageDecoder) -> tuple[int, float, float]:  # noqa: ARG001
    """Compute the batches of images that are decoded already, on all cores."""
    pixels = np.concatenate(list(decoded(case, computation.threads, decoder)))
    size = (pixels.shape[2], pixels.shape[3])
    step = computation.batch_size(size)
    batches = [pixels[start : start + step] for start in range(0, len(pixels), step)]

    def run(batch: np.ndarray) -> int:
        return len(computation.run(Operation.ENCODE, batch, size=size)[0])

    run(batches[0])
    return timed(lambda: sum(in_order(computation.device_threads, run, batches, CORES + 1)))


def decode(case: Case, out: Path, computation: BatchComputation, decoder: ImageDecoder) -> tuple[int, float, float]:  # noqa: ARG001
    """Decode the images, and nothing more."""
    return timed(lambda: sum(map(len, decoded(case, computation.threads, decoder))))


def dataset(case: Case, out: Path) -> tuple[int, float, float]:
    """Encode the data set as `vae encode` does; the CPU time is that beyond a data set of one image."""
    options, hardware = EncodeOptions(buckets=case.bucket), Hardware("cpu", threads=CORES)
    before = cpu_seconds()
    encode_dataset(first_image(case, out.with_suffix(".npy")), case.model, out.with_suffix(".one"), options, hardware)
    loaded = cpu_seconds()
    summary = encode_dataset(case.source, case.model, out, options, hardware)
    spent = (cpu_seconds() - loaded) - (loaded - before)
    return summary.encoded, summary.seconds, spent * summary.encoded / (summary.encoded - 1)


def first_image(case: Case, file: Path) -> Path:
    """Return a source with the first image of a case."""
    if case.source.is_dir():
        return min(case.source.iterdir())
    np.save(file, np.load(case.source, mmap_mode="r")[:1])
    return file


class Files(torch.utils.data.Dataset[torch.Tensor]):
    """The images of a case as a plain script reads them."""

    def __init__(self, case: Case, side: int) -> None:
        self._array = np.load(case.source, mmap_mode="r") if case.source.is_file() else None
        self._paths = [] if self._array is not None else sorted(case.source.iterdir())
        self._side = side

    def __len__(self) -> int:
        return len(self._paths) if self._array is None else len(self._array)

    def __getitem__(self, number: int) -> torch.Tensor:
        if self._array is not None:
            return torch.from_numpy(np.array(self._array[number]))[None].float() / 255
        picture = Image.open(self._paths[number]).convert("RGB").resize((self._side, self._side))
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def script(case: Case, out: Path) -> tuple[int, float, float]:
    """Encode as a plain script does: Pillow, a DataLoader with a worker for each core, the same model by torch."""
    model = load(case.model)
    side = case.bucket[0][0] if case.bucket else model.spec.sizes.default_size[0]
    loader = torch.utils.data.DataLoader(Files(case, side), batch_size=64 if side < CROP else 4, num_workers=CORES)
    torch.set_num_threads(CORES)

    def run() -> int:
        found = []
        with torch.inference_mode():
            for x in loader:
                q = model.posterior(x)
                found.append((q.mean, q.logvar))
        columns = zip(*found, strict=True)
        torch.save([torch.cat([part for part in column if part is not None]) for column in columns], out)
        return sum(len(mean) for mean, _ in found)

    return timed(run)


def http(case: Case, out: Path) -> tuple[int, float, float]:
    """Encode by the client over HTTP; the CPU time is that of client and service."""
    port = free_port()
    command = [sys.executable, "-m", "app", "serve", str(case.model), "--device", "cpu", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    base = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(base)
        processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        before = sum(sum(process.cpu_times()[:2]) for process in processes)
        images = np.load(case.source) if case.source.is_file() else sorted(case.source.iterdir())
        with Client(base, timeout=None) as client:
            size = case.bucket[0] if case.bucket else None
            count, seconds, cpu = timed(lambda: len(save(client.encode(images, size=size), out)))
        return count, seconds, cpu + sum(sum(process.cpu_times()[:2]) for process in processes) - before
    finally:
        server.terminate()
        server.wait()


def save(encoded: Any, out: Path) -> np.ndarray:
    """Write the answers to a file."""
    np.savez(out, mean=encoded.mean, logvar=encoded.logvar)
    mean: np.ndarray = encoded.mean
    return mean


def wait_until_ready(base: str) -> None:
    """Wait for a service."""
    while True:
        with suppress(httpx.TransportError):
            if httpx.get(f"{base}/readyz").status_code == httpx.codes.OK:
                return
        time.sleep(0.2)


def timed(work: Callable[[], int]) -> tuple[int, float, float]:
    """Return the images of a call, its seconds and its CPU seconds."""
    start, before = time.perf_counter(), cpu_seconds()
    images = work()
    return images, time.perf_counter() - start, cpu_seconds() - before


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    return sum(sum(resource.getrusage(of)[:2]) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def measure(system: str, case: Case, scratch: Path) -> Measured:
    """Measure a system in this process."""
    configure_pillow_limits()
    out = scratch / f"{system}.out"
    if system in ("dataset", "script", "http"):
        images, seconds, cpu = {"dataset": dataset, "script": script, "http": http}[system](case, out)
    else:
        model = load(case.model)
        computation = BatchComputation(model, Hardware("cpu", threads=CORES), "cpu")
        decoder = ImageDecoder(model.spec, Sizes(model.spec.sizes, case.bucket), "resize")
        images, seconds, cpu = {"forward": forward, "decode": decode}[system](case, out, computation, decoder)
        computation.close()
    return Measured(images / seconds, 1000 * cpu / images, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measured(system: str, case: Case) -> Measured:
    """Measure a system in a process of its own."""
    with TemporaryDirectory() as scratch:
        words = [
            sys.executable,
            "-m",
            "benchmarks.datasets",
            "--measure",
            system,
            json.dumps(case, default=str),
            scratch,
        ]
        answer = subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout  # noqa: S603
    return Measured(*json.loads(answer.splitlines()[-1]))


def main(
    rounds: Annotated[int, typer.Option(help="Rounds, in each of which all systems have a turn.")] = 3,
    npy_images: Annotated[int, typer.Option(help="Images of 28x28 in the .npy file.")] = 50_000,
    jpeg_images: Annotated[int, typer.Option(help="JPEG files of 256x256.")] = 5_000,
    only: Annotated[str, typer.Option(help="npy, jpeg or jpeg-kl; all by default.")] = "",
    systems: Annotated[str, typer.Option(help="Systems, comma-separated.")] = ",".join(SYSTEMS),
) -> None:
    """Measure each case, and print medians and the medians of the ratios of the rounds."""
    names = systems.split(",")
    sys.stdout.write(
        "| case | system | images/s | ms CPU an image | MiB | rate of dataset / this | CPU of this / dataset |\n"
    )
    sys.stdout.write("|---" * 7 + "|\n")
    with TemporaryDirectory() as scratch:
        for case in cases(Path(scratch), npy_images, jpeg_images, only):
            report(case, names, [{name: measured(name, case) for name in order(names, n)} for n in range(rounds)])


def order(names: Sequence[str], number: int) -> Sequence[str]:
    """Return the order of the systems in a round: every second one is reversed."""
    return names[:: 1 if number % 2 else -1]


def report(case: Case, names: Sequence[str], found: Sequence[dict[str, Measured]]) -> None:
    """Write a row for each system."""
    for name in names:
        rate, cpu, memory = (median(column) for column in zip(*(each[name] for each in found), strict=True))
        ratios = [""] * 2
        if "dataset" in names:
            ratios[0] = f"{median(each['dataset'].rate / each[name].rate for each in found):.2f}"
            ratios[1] = f"{median(each[name].cpu_ms / each['dataset'].cpu_ms for each in found):.2f}"
        cells = [case.name, name, f"{rate:.0f}", f"{cpu:.3f}", f"{memory:.0f}", *ratios]
        sys.stdout.write(f"| {' | '.join(cells)} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        system, described, folder = sys.argv[2:]
        name, source, model, bucket = json.loads(described)
        case = Case(name, Path(source), Path(model), tuple(map(tuple, bucket)))
        sys.stdout.write(json.dumps(measure(system, case, Path(folder))) + "\n")
    else:
        typer.run(main)
