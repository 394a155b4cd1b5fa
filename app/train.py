"""`vae train`: the data, the training and its progress on the terminal, one checkpoint after every epoch."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from model.arrays import Dataset
from model.checkpoint import METRICS, write_json
from model.config import VAEConfig
from model.data import read_dataset
from model.mnist import Downloaded, download_mnist
from model.recipe import RecipeError, TrainingOptions
from model.snapshot import SNAPSHOT, resume_training, write_snapshot
from model.training import EpochRecord, Training, Watch
from model.training import Progress as Step


class Architecture(NamedTuple):
    """The architecture as the command line writes it."""

    image_shape: str
    latent: str
    stride: int
    channels: str
    blocks: str
    hidden: str
    likelihood: str
    scale: float

    def config(self, image_shape: tuple[int, ...]) -> VAEConfig:
        """The architecture for images of one shape."""
        channels = integers("channels", self.channels)
        return VAEConfig(
            image_shape=image_shape,
            latent_shape=integers("latent", self.latent),
            stride=self.stride,
            channels=channels,
            blocks=integers("blocks", self.blocks) if self.blocks else (1,) * len(channels),
            hidden=integers("hidden", self.hidden),
            likelihood=self.likelihood,
            scale=self.scale,
        )


def run_training(  # what the command was asked for
    data: Path,
    out: Path,
    architecture: Architecture,
    options: TrainingOptions,
    device: str,
    *,
    resume: bool,
    download: bool,
) -> None:
    """Train in `out` until all epochs are done."""
    if (out / SNAPSHOT).exists() and not resume:
        raise RecipeError(f"out: {out} already holds a training; --resume goes on with it")
    if download:
        _download(data)
    dataset = read_dataset(data, integers("image_shape", architecture.image_shape) or None)
    training = Training(architecture.config(dataset.image_shape), dataset.train, options, device)
    if (out / SNAPSHOT).exists():
        resume_training(out, training)
    with _progress(training) as watch:
        for record in training.epochs(watch):
            write_snapshot(out, training)
            write_json(out / METRICS, {"training": _metrics(training, dataset)})
            print_epoch(record, options.epochs)


def integers(option: str, text: str) -> tuple[int, ...]:
    """The integers of "4,7,7"; none of ""."""
    try:
        return tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise RecipeError(f"{option}: expected integers like 4,7,7, got {text!r}") from None


def use_device(name: str, threads: int) -> str:
    """The device to work on, with `threads` CPU threads."""
    if name not in ("auto", "cpu", "cuda"):
        raise RecipeError(f"device: expected auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise RecipeError("device: expected a CUDA device for cuda, got none")
    if threads < 0:
        raise RecipeError(f"threads: expected at least 0, got {threads}")
    if threads:
        torch.set_num_threads(threads)
    return "cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu")


def print_epoch(record: EpochRecord, epochs: int) -> None:
    """One line for a finished epoch."""
    validation = "" if record.validation is None else f"  validation {record.validation:.2f}"
    terms = f"elbo {record.elbo:.2f}  reconstruction {record.reconstruction:.2f}  kl {record.kl:.2f}"
    speed = f"{record.images_per_second:.0f} images/s  {record.seconds:.0f} s"
    print(f"epoch {record.epoch}/{epochs}  {terms}{validation}  {speed}", flush=True)  # noqa: T201  # the command's answer


def _metrics(training: Training, dataset: Dataset) -> dict[str, Any]:
    return {
        "options": training.options.as_dict(),
        "data": dataset.describe(),
        "command": shlex.join(["vae", *sys.argv[1:]]),
        "torch": str(torch.__version__),
        "device": training.images.device.type,
        "seconds": sum(record.seconds for record in training.records),
        "epochs": [asdict(record) for record in training.records],
    }


@contextmanager
def _progress(training: Training) -> Iterator[Watch | None]:
    if not Console().is_terminal:
        yield None
        return
    text = TextColumn("elbo {task.fields[elbo]:.2f}  reconstruction {task.fields[reconstruction]:.2f}")
    more = TextColumn("kl {task.fields[kl]:.2f}  {task.fields[images_per_second]:.0f} images/s")
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), text, more) as bar:
        steps = training.options.epochs * training.steps_per_epoch
        task = bar.add_task("", total=steps, elbo=0.0, reconstruction=0.0, kl=0.0, images_per_second=0.0)

        def watch(step: Step) -> None:
            done = (step.epoch - 1) * step.steps + step.step
            bar.update(task, description=f"epoch {step.epoch}", completed=done, **asdict(step))

        yield watch


def _download(data: Path) -> None:
    with Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn()) as bar:
        tasks: dict[str, Any] = {}

        def watch(file: Downloaded) -> None:
            task = tasks.setdefault(file.name, None) or bar.add_task(file.name, total=file.size or None)
            tasks[file.name] = task
            bar.update(task, completed=file.done)

        download_mnist(data, watch=watch)
