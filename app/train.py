"""`vae train`: data, training and progress; after every epoch the folder holds a whole model and can be gone on with."""

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from app.terminal import download_bar, print_epoch, training_bar
from model.arrays import Dataset
from model.card import write_card
from model.checkpoint import METRICS, write_json
from model.config import VAEConfig
from model.data import read_dataset
from model.mnist import download_mnist
from model.recipe import RecipeError, TrainingOptions
from model.snapshot import SNAPSHOT, resume_training, write_snapshot
from model.training import Training


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


class Place(NamedTuple):
    """Where the data lie, where the model goes, and what may already be there."""

    data: Path
    out: Path
    resume: bool
    download: bool


def run_training(place: Place, architecture: Architecture, options: TrainingOptions, device: str) -> None:
    """Train in the folder until all epochs are done, then draw pictures and write the card."""
    begun = (place.out / SNAPSHOT).exists()
    if begun and not place.resume:
        raise RecipeError(f"out: {place.out} already holds a training; --resume goes on with it")
    dataset = _dataset(place, integers("image_shape", architecture.image_shape))
    training = Training(architecture.config(dataset.image_shape), dataset.train, options, device)
    if begun:
        resume_training(place.out, training)
    with training_bar(options.epochs) as watch:
        for record in training.epochs(watch):
            write_snapshot(place.out, training)
            write_json(place.out / METRICS, {"training": _metrics(training, dataset)})
            print_epoch(record, options.epochs)
    _portray(place.out, training, dataset)


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


def _dataset(place: Place, image_shape: tuple[int, ...]) -> Dataset:
    if place.download:
        with download_bar() as watch:
            download_mnist(place.data, watch=watch)
    if image_shape and (len(image_shape) != 3 or image_shape[0] not in (1, 3) or min(image_shape) < 1):
        raise RecipeError(f"image_shape: expected C,H,W with C of 1 or 3, got {image_shape}")
    return read_dataset(place.data, image_shape or None)


def _metrics(training: Training, dataset: Dataset) -> dict[str, Any]:
    return {
        "options": training.options.as_dict(),
        "data": dataset.describe(),
        "command": shlex.join(["vae", *(word for word in sys.argv[1:] if word != "--resume")]),
        "torch": str(torch.__version__),
        "device": training.images.device.type,
        "seconds": sum(record.seconds for record in training.records),
        "epochs": [asdict(record) for record in training.records],
    }


def _portray(out: Path, training: Training, dataset: Dataset) -> None:
    from model.pictures import write_pictures  # noqa: PLC0415  # matplotlib comes with the train extra alone

    images = dataset.train if dataset.test is None else dataset.test
    write_pictures(out / "pictures", training.average, images, training.records)
    write_card(out)
