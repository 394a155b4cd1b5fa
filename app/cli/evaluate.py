"""Evaluation of a trained model, for `vae evaluate`."""

from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import torch

from app.cli.options import EvaluationOptions, command_line, default_binarize
from app.cli.progress import evaluation_bar, notify, report_skipped
from model.checkpoint import Checkpoint, read_checkpoint
from model.data.arrays import DataError, Images, digest
from model.data.datasets import read_dataset
from model.data.splits import split_by_content
from model.evaluation.metrics import ChunkSizes, Evaluation, evaluate
from model.records import EvaluationRecord, TrainingRecord


class EvaluatedImages(NamedTuple):
    """Images to evaluate, uint8 [N, C, H, W], and the name of their split."""

    images: Images
    split: str


def run_evaluation(
    model: Path, data: Path, options: EvaluationOptions, device: torch.device, test: Path | None = None
) -> tuple[EvaluationRecord, Images]:
    """Evaluate the model on `evaluated_images`, the first ones with a limit; return the figures and all images."""
    options.validate()
    checkpoint = read_checkpoint(model, device)
    for warning in checkpoint.warnings:
        notify(warning)
    found, split = evaluated_images(checkpoint, data, test)
    images = found[: options.limit or None]
    start = perf_counter()
    evaluation = _evaluate(checkpoint, images, options)
    record = EvaluationRecord(
        **asdict(evaluation),
        split=split,
        digest=digest(images),
        weights=checkpoint.digest,
        command=command_line(),
        torch=str(torch.__version__),
        device=device.type,
        seconds=perf_counter() - start,
    )
    return record, found


def evaluated_images(checkpoint: Checkpoint, data: Path, test: Path | None = None) -> EvaluatedImages:
    """Read the images to evaluate: those of `test`, else the test split of `data`.

    Without a test split they are those that the training held out by their content, and all images if it held out none.
    Raises `DataError`.
    """
    dataset = read_dataset(test or data, checkpoint.vae.config.image_shape)
    report_skipped(dataset)
    if dataset.test is not None:
        return EvaluatedImages(dataset.test, "test split")
    if test:
        return EvaluatedImages(dataset.train, f"data set {test.resolve().name}")
    training = checkpoint.metrics.training
    share, seed = _recorded_split(training)
    if not share:
        is_training = training is None or training.data.digest == digest(dataset.train)
        return EvaluatedImages(dataset.train, "training split" if is_training else "data set")
    images = split_by_content(dataset, share, seed).test
    if images is None:
        raise DataError(f"{data}: no image is in the test split of the training; expected --test with other images")
    return EvaluatedImages(images, f"test split that was held out of the training data (seed {seed})")


def _recorded_split(training: TrainingRecord | None) -> tuple[float, int]:
    """The share and the seed of the test split that the training held out."""
    values = training.options.values if training else {}
    share, seed = values.get("test_share", 0.0), values.get("seed", 0)
    return (share, seed) if isinstance(share, float) and 0 < share < 1 and type(seed) is int else (0.0, 0)


def _evaluate(checkpoint: Checkpoint, images: Images, options: EvaluationOptions) -> Evaluation:
    vae = checkpoint.vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
    trained = checkpoint.metrics.training.options.binarize if checkpoint.metrics.training else ""
    binarize = options.binarize or trained or default_binarize(vae.config.likelihood)
    draws = 16 if next(vae.parameters()).device.type == "cpu" else 256
    with evaluation_bar(len(images)) as progress:
        return evaluate(
            vae,
            images,
            options.samples,
            binarize=binarize,
            seed=options.seed,
            precision=options.precision,
            progress=progress,
            **ChunkSizes.fitting(vae.config.dimensions, draws)._asdict(),
        )
