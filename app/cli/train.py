"""Training of a model, for `vae train`. After every epoch the folder holds a complete model."""

import shlex
from dataclasses import asdict
from errno import EACCES, ENOTDIR
from hashlib import sha256
from os import W_OK, access, strerror
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from app.cli.options import Hardware, TrainingRun
from app.cli.plan import Plan, new_plan, resumed_plan
from app.cli.progress import download_bar, duration, notify, print_epoch, training_bar
from app.cli.report import write_report
from model.checkpoint import METRICS, write_checkpoint
from model.data.arrays import Dataset
from model.data.mnist import download_mnist
from model.errors import OptionsError, reporting_file
from model.evaluation.model_card import CARD, PICTURES, PLOTS
from model.files import CONFIG, WEIGHTS, CheckpointError, read_file, read_json, write_atomically, write_json
from model.records import VERSION, TrainingRecord, read_metrics
from model.training.budget import TimeBudget
from model.training.resume import SNAPSHOT, resume_training, write_snapshot
from model.training.trainer import Training

SHOWN_SECONDS = 0.2
"""Interval at which the progress bar is updated."""

MAX_MINUTES = 1e6
"""Two years."""

STARTED_MARKER = "training.begun"
"""The file that marks the folder of a training until its first snapshot is saved."""


def run_training(run: TrainingRun, values: dict[str, Any], hardware: Hardware, minutes: float | None) -> None:
    """Train until all epochs are done, then write plots and the model card; `values` are None where not given."""
    started = perf_counter()
    if minutes is not None and not 0 < minutes <= MAX_MINUTES:
        raise OptionsError(f"minutes: expected a number above 0, at most {MAX_MINUTES:g}, got {minutes:g}")
    if minutes is not None and "epochs" in run.given:
        raise OptionsError(f"minutes: expected in place of epochs, got {minutes:g} beside epochs {values['epochs']}")
    if _is_complete(run):
        _finish_complete(run, values)
        return
    resumable = _is_resumable(run)
    _require_writable(run.out)
    if run.download:
        with download_bar() as progress:
            download_mnist(run.data, progress=progress)
    plan = resumed_plan(run, values, hardware) if resumable else new_plan(run, values, hardware, minutes)
    training = plan.training()
    if resumable:
        resume_training(run.out, training)
    if training.is_finished:
        _notify_finished(training.epoch)
    else:
        _train(run, training, plan, started)
    write_report(run.out, plan.dataset)
    if not run.keep_state:
        (run.out / SNAPSHOT).unlink(missing_ok=True)
    _notify_next_steps(run)


def _notify_finished(epochs: int) -> None:
    notify(f"all {epochs} epochs are done")


def _is_complete(run: TrainingRun) -> bool:
    """Whether the training to be resumed is complete, and its state was removed."""
    if not run.resume or any((run.out / name).exists() for name in (SNAPSHOT, STARTED_MARKER)):
        return False
    return all((run.out / name).exists() for name in (CONFIG, WEIGHTS)) and _recorded(run.out) is not None


def _recorded(out: Path) -> TrainingRecord | None:
    try:
        return read_metrics(read_json(out / METRICS))[0].training
    except CheckpointError:
        return None


def _finish_complete(run: TrainingRun, values: dict[str, Any]) -> None:
    """Report that a training is complete; raises `OptionsError` for an option that contradicts it."""
    record = _recorded(run.out)
    options = record.options.values if record else {}
    for option in sorted(run.given & options.keys()):
        if values[option] != options[option]:
            before, removed = f"as the complete training had, got {values[option]!r}", "its state was removed"
            new = f"--start {shlex.quote(str(run.out))} and another --out begin with its weights"
            raise OptionsError(f"{option}: expected {options[option]!r}, {before}; {removed}, {new}")
    _notify_finished(len(record.epochs) if record else 0)
    _notify_next_steps(run)


def _train(run: TrainingRun, training: Training, plan: Plan, started: float) -> None:
    _prepare_output(run.out)
    notify(f"training on {_described(training, plan.dataset)}, into {run.out}")
    notify(_expected_time(training, plan))
    budget = None if plan.budget is None else TimeBudget(plan.budget, spent=perf_counter() - started)
    try:
        with training_bar(training.options) as watch:
            for record in training.epochs(watch, SHOWN_SECONDS):
                if budget:
                    training.change_length(budget.epochs_after(training.epoch))
                _save_epoch(run.out, training, plan)
                print_epoch(record, training.options)
        if budget and training.epoch == training.options.epochs != plan.options.epochs:
            notify(f"the time was that of {training.epoch} epochs; {plan.options.epochs} were planned at the start")
        _notify_best(training)
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
    written = (METRICS, CARD, *(f"{PICTURES}/{name}.png" for name in PLOTS))
    if not own and (found := [name for name in written if (run.out / name).exists()]):
        raise OptionsError(f"out: {run.out} already holds {found[0]}, which the training would overwrite")
    if run.resume and not begun:
        notify(f"{run.out} holds no training to resume: starting a new one")
    return begun


def _require_writable(out: Path) -> None:
    """Raise `UserError` for a folder that cannot be written or created, without creating it."""
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    with reporting_file(out):
        if not nearest.is_dir():
            raise NotADirectoryError(ENOTDIR, strerror(ENOTDIR))
        if not access(nearest, W_OK):
            raise PermissionError(EACCES, strerror(EACCES))


def _prepare_output(out: Path) -> None:
    """Create the folder, and the file that marks it until the first epoch is saved."""
    with reporting_file(out):
        out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / STARTED_MARKER, b"")


def _described(training: Training, dataset: Dataset) -> str:
    shape = ",".join(map(str, dataset.image_shape))
    held_out = f"{len(training.heldout)} for validation, {0 if dataset.test is None else len(dataset.test)} for tests"
    epochs = f"{training.options.epochs} epochs of {training.steps_per_epoch} steps on {training.images.device}"
    return f"{len(training.images)} images of shape {shape} ({held_out}), {epochs}"


def _expected_time(training: Training, plan: Plan) -> str:
    done = [record.seconds for record in training.records]
    pace = sum(done) / len(done) if done else plan.epoch_seconds or 0.0
    patience, first_best = training.options.patience, max(1, training.best_epoch)
    may_end_early = patience and first_best + patience < training.options.epochs
    early = f", less if {patience} epochs do not improve it" if may_end_early else ""
    return f"expected time: {duration(pace * (training.options.epochs - training.epoch))}{early}"


def _notify_best(training: Training) -> None:
    if training.best_epoch < training.epoch:
        notify(f"epoch {training.best_epoch} had the best validation; its weights are kept")


def _save_epoch(out: Path, training: Training, plan: Plan) -> None:
    if training.best_epoch == training.epoch:
        weights = write_checkpoint(out, training.vae.config, training.average.state_dict())
    else:
        weights = sha256(read_file(out / WEIGHTS)).hexdigest()
    record = _metrics(training, plan)
    write_json(out / METRICS, {"version": VERSION, "weights": weights, "training": record})
    write_snapshot(out, training)  # last: a run that is killed before repeats the epoch
    (out / STARTED_MARKER).unlink(missing_ok=True)


def _notify_next_steps(run: TrainingRun) -> None:
    model, data = shlex.quote(str(run.out)), shlex.quote(str(run.data))
    notify(f"the model is in {run.out}, pictures of it in {run.out / PICTURES}")
    notify(f"next: vae evaluate --model {model} --data {data} --save")
    notify(f"then: vae serve --model {model}")


def _metrics(training: Training, plan: Plan) -> dict[str, Any]:
    return {
        "options": training.options.as_dict(),
        "data": plan.dataset.describe(),
        "command": plan.command,
        "best_epoch": training.best_epoch,
        "torch": str(torch.__version__),
        "device": training.images.device.type,
        "seconds": sum(record.seconds for record in training.records),
        "epochs": [asdict(record) for record in training.records],
    }
