"""Evaluation of a trained model, for `vae evaluate`."""

from dataclasses import asdict
from pathlib import Path
from time import perf_counter

import torch

from app.cli.options import EvaluationOptions, command_line, default_binarize
from app.cli.progress import evaluation_bar, notify
from model.checkpoint import Checkpoint, read_checkpoint
from model.data.arrays import Images, digest
from model.data.datasets import read_dataset
from model.evaluation.metrics import ChunkSizes, Evaluation, evaluate
from model.records import EvaluationRecord


def run_evaluation(model: Path, data: Path, options: EvaluationOptions, device: torch.device) -> EvaluationRecord:
    """Evaluate the model on the test split, or on all images without one."""
    options.validate()
    checkpoint = read_checkpoint(model, device)
    for warning in checkpoint.warnings:
        notify(warning)
    dataset = read_dataset(data, checkpoint.vae.config.image_shape)
    split = "training split" if dataset.test is None else "test split"
    images = dataset.held_out[: options.limit or None]
    start = perf_counter()
    evaluation = _evaluate(checkpoint, images, options)
    return EvaluationRecord(
        **asdict(evaluation),
        split=split,
        digest=digest(images),
        weights=checkpoint.digest,
        command=command_line(),
        torch=str(torch.__version__),
        device=device.type,
        seconds=perf_counter() - start,
    )


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
