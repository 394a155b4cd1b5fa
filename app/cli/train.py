"""Training of a model, for `vae train`. After every epoch the folder holds a complete model."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from app.cli.options import Architecture, TrainingRun, command_line
from app.cli.progress import download_bar, notify, print_epoch, training_bar
from app.cli.report import write_report
from model.checkpoint import METRICS, write_checkpoint
from model.data.arrays import Dataset
from model.data.datasets import read_dataset
from model.data.mnist import download_mnist
from model.errors import reporting_file
from model.evaluation.model_card import CARD, PLOTS
from model.files import CONFIG, WEIGHTS, write_atomically, write_json
from model.records import VERSION
from model.training.options import OptionsError, TrainingOptions
from model.training.resume import SNAPSHOT, resume_training, write_snapshot
from model.training.trainer import Training

STARTED_MARKER = "training.begun"
"""The file that marks the folder of a training until its first snapshot is saved."""


def run_training(run: TrainingRun, architecture: Architecture, options: TrainingOptions, device: torch.device) -> None:
    """Train until all epochs are done, then write plots and the model card."""
    resumable = _is_resumable(run)
    if run.download:
        with download_bar() as progress:
            download_mnist(run.data, progress=progress)
    dataset = read_dataset(run.data, architecture.resized_shape())
    training = Training(architecture.config(dataset.image_shape), dataset.train, options, device, run.start)
    if resumable:
        resume_training(run.out, training)
    if training.epoch < options.epochs:
        _train(run.out, training, dataset)
    else:
        notify(f"all {options.epochs} epochs are done")
    write_report(run.out, training, dataset)
    _notify_next_steps(run)


def _train(out: Path, training: Training, dataset: Dataset) -> None:
    _prepare_output(out)
    _warn_kl_warmup(training.options)
    images = f"{len(dataset.train)} images of shape {','.join(map(str, dataset.image_shape))}"
    notify(f"training on {images}, {training.options.epochs} epochs on {training.images.device}, into {out}")
    try:
        with training_bar(training.options.epochs) as watch:
            for record in training.epochs(watch):
                _save_epoch(out, training, dataset)
                print_epoch(record, training.options.epochs)
    except KeyboardInterrupt:
        if (out / SNAPSHOT).exists():
            notify("stopped; repeat the command with --resume to continue")
        else:
            notify("stopped in the first epoch: nothing was saved")
        raise


def _is_resumable(run: TrainingRun) -> bool:
    """Whether the folder holds a training to resume; raises `OptionsError` if it holds other files."""
    begun = (run.out / SNAPSHOT).exists()
    if begun and not run.resume:
        raise OptionsError(f"out: {run.out} already holds a training; use --resume to continue it")
    own = begun or (run.out / STARTED_MARKER).exists()
    if not own and any((run.out / name).exists() for name in (CONFIG, WEIGHTS)):
        raise OptionsError(f"out: {run.out} already holds a model")
    written = (METRICS, CARD, *(f"pictures/{name}.png" for name in PLOTS))
    if not own and (found := [name for name in written if (run.out / name).exists()]):
        raise OptionsError(f"out: {run.out} already holds {found[0]}, which the training would overwrite")
    if run.resume and not begun:
        notify(f"{run.out} holds no training to resume: starting a new one")
    return begun


def _prepare_output(out: Path) -> None:
    """Create the marker file, so that a folder that cannot be written is reported before the training."""
    with reporting_file(out):
        out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / STARTED_MARKER, b"")


def _save_epoch(out: Path, training: Training, dataset: Dataset) -> None:
    weights = write_checkpoint(out, training.vae.config, training.average.state_dict())
    write_json(out / METRICS, {"version": VERSION, "weights": weights, "training": _metrics(training, dataset)})
    write_snapshot(out, training)  # last: a run that is killed before repeats the epoch
    (out / STARTED_MARKER).unlink(missing_ok=True)


def _warn_kl_warmup(options: TrainingOptions) -> None:
    if options.kl_warmup > options.epochs:
        lengths = f"its warm-up of {options.kl_warmup:g} epochs is longer than the training of {options.epochs}"
        notify(f"warning: the weight of the KL never reaches 1: {lengths}; --kl-warmup changes it")


def _notify_next_steps(run: TrainingRun) -> None:
    model, data = shlex.quote(str(run.out)), shlex.quote(str(run.data))
    notify(f"the model is in {run.out}")
    notify(f"next: vae evaluate --model {model} --data {data} --save")
    notify(f"then: vae serve --model {model}")


def _metrics(training: Training, dataset: Dataset) -> dict[str, Any]:
    return {
        "options": training.options.as_dict(),
        "data": dataset.describe(),
        "command": command_line(),
        "torch": str(torch.__version__),
        "device": training.images.device.type,
        "seconds": sum(record.seconds for record in training.records),
        "epochs": [asdict(record) for record in training.records],
    }
