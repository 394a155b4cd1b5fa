"""`vae evaluate`: the figures of a trained model, as a table, as JSON, and kept beside the model."""

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch

from app.terminal import evaluation_bar
from model.arrays import Dataset, Images, digest
from model.card import write_card
from model.checkpoint import METRICS, Checkpoint, read_checkpoint, write_json
from model.data import read_dataset
from model.evaluation import Evaluation, evaluate
from model.recipe import RecipeError
from model.training import EpochRecord


class Scoring(NamedTuple):
    """What is scored and how: `binarize` empty is as in training, `limit` 0 is all images."""

    samples: int
    binarize: str
    seed: int
    limit: int

    def require_usable(self) -> None:
        """Refuse what cannot be scored, naming the option."""
        if self.binarize not in ("", "dynamic", "none"):
            raise RecipeError(f"binarize: expected dynamic or none, got {self.binarize!r}")
        for option, value, least in (("samples", self.samples, 1), ("limit", self.limit, 0), ("seed", self.seed, 0)):
            if value < least:
                raise RecipeError(f"{option}: expected at least {least}, got {value}")


def run_evaluation(model: Path, data: Path, scoring: Scoring, device: str) -> dict[str, Any]:
    """Score the test split of the data, or all its images where it has none; the figures as JSON holds them."""
    scoring.require_usable()
    checkpoint = read_checkpoint(model, device)
    dataset = read_dataset(data, checkpoint.vae.config.image_shape)
    split = "training split" if dataset.test is None else "test split"
    images = _held_out(dataset)[: scoring.limit or None]
    start = perf_counter()
    figures = asdict(_evaluate(checkpoint, images, scoring))
    about = {"split": split, "digest": digest(images), "command": shlex.join(["vae", *sys.argv[1:]])}
    return figures | about | {"torch": str(torch.__version__), "device": device, "seconds": perf_counter() - start}


def save_evaluation(model: Path, data: Path, figures: dict[str, Any]) -> None:
    """Keep the figures in the model's metrics.json, and draw its pictures and its card anew."""
    from model.pictures import write_pictures  # noqa: PLC0415  # matplotlib comes with the train extra alone

    checkpoint = read_checkpoint(model)
    records = [EpochRecord(**record) for record in checkpoint.metrics.get("training", {}).get("epochs", [])]
    write_json(model / METRICS, checkpoint.metrics | {"evaluation": figures})
    dataset = read_dataset(data, checkpoint.vae.config.image_shape)
    write_pictures(model / "pictures", checkpoint.vae, _held_out(dataset), records)
    write_card(model)


def _held_out(dataset: Dataset) -> Images:
    return dataset.train if dataset.test is None else dataset.test


def _evaluate(checkpoint: Checkpoint, images: Images, scoring: Scoring) -> Evaluation:
    vae = checkpoint.vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch does not type it
    trained = checkpoint.metrics.get("training", {}).get("options", {}).get("binarize")
    binarize = scoring.binarize or trained or ("dynamic" if vae.config.likelihood == "bernoulli" else "none")
    with evaluation_bar(len(images)) as watch:
        return evaluate(vae, images, scoring.samples, binarize=binarize, seed=scoring.seed, watch=watch)
