"""`vae evaluate`: the figures of a trained model, as a table, as JSON, and kept beside the model."""

from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from app.cli.options import EvaluationOptions, command, usual_binarize
from app.cli.progress import evaluation_bar, tell
from model.checkpoint import Checkpoint, read_checkpoint
from model.data.arrays import Images, digest
from model.data.datasets import read_dataset
from model.evaluation.metrics import ChunkSizes, Evaluation, evaluate


def run_evaluation(model: Path, data: Path, scoring: EvaluationOptions, device: torch.device) -> dict[str, Any]:
    """Score the test split of the data, or all its images where it has none; the figures as JSON holds them."""
    scoring.require_usable()
    checkpoint = read_checkpoint(model, device)
    for warning in checkpoint.warnings:
        tell(warning)
    dataset = read_dataset(data, checkpoint.vae.config.image_shape)
    split = "training split" if dataset.test is None else "test split"
    images = dataset.held_out[: scoring.limit or None]
    start = perf_counter()
    figures = asdict(_evaluate(checkpoint, images, scoring))
    about = {"split": split, "digest": digest(images), "weights": checkpoint.digest, "command": command()}
    return figures | about | {"torch": str(torch.__version__), "device": device.type, "seconds": perf_counter() - start}


def _evaluate(checkpoint: Checkpoint, images: Images, scoring: EvaluationOptions) -> Evaluation:
    vae = checkpoint.vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
    trained = checkpoint.metrics.training.options.binarize if checkpoint.metrics.training else ""
    binarize = scoring.binarize or trained or usual_binarize(vae.config.likelihood)
    draws = 16 if next(vae.parameters()).device.type == "cpu" else 256
    with evaluation_bar(len(images)) as progress:
        return evaluate(
            vae,
            images,
            scoring.samples,
            binarize=binarize,
            seed=scoring.seed,
            precision=scoring.precision,
            progress=progress,
            **ChunkSizes.fitting(vae.config.dimensions, draws)._asdict(),
        )
