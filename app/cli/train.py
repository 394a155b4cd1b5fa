"""`vae train`: data, training and progress; after every epoch the folder holds a whole model."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from app.cli.options import Architecture, TrainingRun, command
from app.cli.progress import download_bar, print_epoch, tell, training_bar
from app.cli.report import portray
from model.checkpoint import CONFIG, METRICS, WEIGHTS, write_atomically, write_checkpoint, write_json
from model.data.arrays import Dataset
from model.data.datasets import read_dataset
from model.data.mnist import download_mnist
from model.errors import reporting_file
from model.evaluation.model_card import CARD, PICTURES
from model.records import VERSION
from model.training.options import OptionsError, TrainingOptions
from model.training.resume import SNAPSHOT, resume_training, write_snapshot
from model.training.trainer import Training

MARK = "training.begun"
"""The file that tells, until the first snapshot is kept, whose the folder is."""


def run_training(run: TrainingRun, architecture: Architecture, options: TrainingOptions, device: torch.device) -> None:
    """Train in the folder until all epochs are done, then draw pictures and write the card."""
    begun = _begun(run)
    if run.download:
        with download_bar() as told:
            download_mnist(run.data, progress=told)
    dataset = read_dataset(run.data, architecture.fitted())
    training = Training(architecture.config(dataset.image_shape), dataset.train, options, device, run.start)
    if begun:
        resume_training(run.out, training)
    if training.epoch < options.epochs:
        _train(run.out, training, dataset)
    else:
        tell(f"all {options.epochs} epochs are done")
    portray(run.out, training, dataset)
    _tell_what_is_next(run)


def _train(out: Path, training: Training, dataset: Dataset) -> None:
    _claim(out)
    _tell_of_the_kl(training.options)
    try:
        with training_bar(training.options.epochs) as watch:
            for record in training.epochs(watch):
                _keep(out, training, dataset)
                print_epoch(record, training.options.epochs)
    except KeyboardInterrupt:
        if (out / SNAPSHOT).exists():
            tell("stopped; the same command with --resume goes on")
        raise


def _begun(run: TrainingRun) -> bool:
    """Whether there is a training to go on with; no file of another origin is written over."""
    begun = (run.out / SNAPSHOT).exists()
    if begun and not run.resume:
        raise OptionsError(f"out: {run.out} already holds a training; --resume goes on with it")
    own = begun or (run.out / MARK).exists()
    if not own and any((run.out / name).exists() for name in (CONFIG, WEIGHTS)):
        raise OptionsError(f"out: {run.out} already holds a model")
    written = (METRICS, CARD, *(f"pictures/{name}.png" for name in PICTURES))
    if not own and (found := [name for name in written if (run.out / name).exists()]):
        raise OptionsError(f"out: {run.out} already holds {found[0]}, which the training would write over")
    if run.resume and not begun:
        tell(f"{run.out} holds no training to resume: it begins")
    return begun


def _claim(out: Path) -> None:
    """Create the marker file, so that a folder that cannot be written is reported before the training."""
    with reporting_file(out):
        out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / MARK, b"")


def _keep(out: Path, training: Training, dataset: Dataset) -> None:
    weights = write_checkpoint(out, training.vae.config, training.average.state_dict())
    write_json(out / METRICS, {"version": VERSION, "weights": weights, "training": _metrics(training, dataset)})
    write_snapshot(out, training)  # last: a run that is cut off before it does the epoch again
    (out / MARK).unlink(missing_ok=True)


def _tell_of_the_kl(options: TrainingOptions) -> None:
    if options.kl_warmup > options.epochs:
        lengths = f"its warm-up of {options.kl_warmup:g} epochs is longer than the training of {options.epochs}"
        tell(f"kl_warmup: the KL never counts in full, {lengths}")


def _tell_what_is_next(run: TrainingRun) -> None:
    model, data = shlex.quote(str(run.out)), shlex.quote(str(run.data))
    tell(f"the model is in {run.out}")
    tell(f"next: vae evaluate --model {model} --data {data} --save")
    tell(f"then: vae serve --model {model}")


def _metrics(training: Training, dataset: Dataset) -> dict[str, Any]:
    return {
        "options": training.options.as_dict(),
        "data": dataset.describe(),
        "command": command(),
        "torch": str(torch.__version__),
        "device": training.images.device.type,
        "seconds": sum(record.seconds for record in training.records),
        "epochs": [asdict(record) for record in training.records],
    }
