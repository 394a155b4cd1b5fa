"""Training of a model, for `vae train`. After every epoch the folder holds a complete model."""

import shlex
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from app.cli.options import Architecture, Hardware, TrainingRun, command_line, continued_options
from app.cli.progress import download_bar, notify, print_epoch, training_bar
from app.cli.report import write_report
from model.checkpoint import METRICS, Checkpoint, read_checkpoint, write_checkpoint
from model.data.arrays import Dataset
from model.data.datasets import read_dataset
from model.data.mnist import download_mnist
from model.errors import reporting_file
from model.evaluation.model_card import CARD, PLOTS
from model.files import CONFIG, WEIGHTS, CheckpointError, read_json, write_atomically, write_json
from model.records import VERSION, read_metrics
from model.training.options import OptionsError, TrainingOptions
from model.training.resume import SNAPSHOT, read_recorded_training, resume_training, write_snapshot
from model.training.trainer import Training

IN_SNAPSHOT = "in the snapshot"
STARTED_MARKER = "training.begun"
"""The file that marks the folder of a training until its first snapshot is saved."""


class Plan(NamedTuple):
    """What to train: the architecture, the options, the starting model, and the command that began the training."""

    architecture: Architecture
    options: TrainingOptions
    hardware: Hardware
    start: Checkpoint | None
    command: str


def run_training(run: TrainingRun, architecture: Architecture, options: dict[str, Any], hardware: Hardware) -> None:
    """Train until all epochs are done, then write plots and the model card."""
    resumable = _is_resumable(run)
    plan = (_resumed_plan if resumable else _new_plan)(run, architecture, options, hardware)
    device = plan.hardware.use()
    if run.download:
        with download_bar() as progress:
            download_mnist(run.data, progress=progress)
    dataset = read_dataset(run.data, plan.architecture.resized_shape())
    config = plan.architecture.config(dataset.image_shape)
    training = Training(config, dataset.train, plan.options, device, plan.start)
    if resumable:
        resume_training(run.out, training)
    if training.epoch < plan.options.epochs:
        _train(run, training, dataset, plan.command)
    else:
        notify(f"all {plan.options.epochs} epochs are done")
    write_report(run.out, training, dataset)
    _notify_next_steps(run)


def _new_plan(run: TrainingRun, architecture: Architecture, options: dict[str, Any], hardware: Hardware) -> Plan:
    start = read_checkpoint(run.start) if run.start else None
    if start:
        architecture = architecture.continued_from(start.vae.config, run.given, "--start has it")
    defaults = {"kl_warmup": 0.0 if start else TrainingOptions().kl_warmup, "binarize": architecture.binarize}
    chosen = options | {name: value for name, value in defaults.items() if options[name] in (None, "")}
    return Plan(architecture, TrainingOptions(**chosen), hardware, start, command_line())


def _resumed_plan(run: TrainingRun, architecture: Architecture, options: dict[str, Any], hardware: Hardware) -> Plan:
    """The recorded plan; raises `OptionsError` for a given option that contradicts it."""
    recorded = read_recorded_training(run.out)
    start = read_checkpoint(run.start) if run.start else None
    if start and start.digest != recorded.start:
        raise OptionsError(f"start: expected {recorded.start!r}, as in the snapshot, got {start.digest!r}")
    architecture = architecture.continued_from(recorded.config, run.given, IN_SNAPSHOT)
    given = {name: value for name, value in options.items() if name in run.given}
    if "device" not in run.given:
        hardware = hardware._replace(device=recorded.device)
    continued = continued_options(recorded.options, given, IN_SNAPSHOT)
    return Plan(architecture, continued, hardware, start, _recorded_command(run.out))


def _recorded_command(out: Path) -> str:
    """The command that began the training in a folder."""
    with suppress(CheckpointError):  # a missing or damaged file is written anew
        metrics, _ = read_metrics(read_json(out / METRICS))
        if metrics.training:
            return metrics.training.command
    return command_line()


def _train(run: TrainingRun, training: Training, dataset: Dataset, command: str) -> None:
    _prepare_output(run.out)
    _warn_kl_warmup(training.options)
    images = f"{len(dataset.train)} images of shape {','.join(map(str, dataset.image_shape))}"
    notify(f"training on {images}, {training.options.epochs} epochs on {training.images.device}, into {run.out}")
    try:
        with training_bar(training.options.epochs) as watch:
            for record in training.epochs(watch):
                _save_epoch(run.out, training, dataset, command)
                print_epoch(record, training.options.epochs)
    except KeyboardInterrupt:
        if (run.out / SNAPSHOT).exists():
            paths = f"--data {shlex.quote(str(run.data))} --out {shlex.quote(str(run.out))}"
            notify(f"stopped; to continue: vae train --resume {paths}")
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


def _save_epoch(out: Path, training: Training, dataset: Dataset, command: str) -> None:
    weights = write_checkpoint(out, training.vae.config, training.average.state_dict())
    record = _metrics(training, dataset, command)
    write_json(out / METRICS, {"version": VERSION, "weights": weights, "training": record})
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


def _metrics(training: Training, dataset: Dataset, command: str) -> dict[str, Any]:
    return {
        "options": training.options.as_dict(),
        "data": dataset.describe(),
        "command": command,
        "torch": str(torch.__version__),
        "device": training.images.device.type,
        "seconds": sum(record.seconds for record in training.records),
        "epochs": [asdict(record) for record in training.records],
    }
