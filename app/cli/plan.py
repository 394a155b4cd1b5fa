"""Plan of a training for `vae train`: data, architecture and options, given, recorded or chosen from the data."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from shlex import quote
from typing import Any, NamedTuple

import torch

from app.cli.options import Architecture, Hardware, TrainingRun, command_line, continued_options, default_binarize
from app.cli.progress import duration, notify, report_skipped
from model.checkpoint import METRICS, Checkpoint, read_checkpoint
from model.config import VAEConfig
from model.data.arrays import CheckOutline, Dataset, Outline
from model.data.datasets import read_dataset
from model.data.splits import split_by_content
from model.errors import OptionsError
from model.files import CheckpointError, read_json
from model.records import read_metrics
from model.training.defaults import (
    LEAST_BATCH,
    MAX_EPOCHS,
    Choice,
    ImageStatistics,
    choose_architecture,
    choose_data_options,
    choose_length,
    choose_patience,
    choose_precision,
    choose_schedules,
    require_possible,
    steps_per_epoch,
)
from model.training.options import TrainingOptions
from model.training.resume import read_recorded_training
from model.training.trainer import Training, measure_speed

IN_SNAPSHOT = "in the snapshot"
NETWORK = {"stride": 2, "channels": "32,32", "blocks": "", "hidden": "450"}
"""Defaults of the options of the networks where one of them is given."""

BUDGET_SHARE = 0.95
"""Share of a budget of time that epochs are planned for; plots take the rest."""


class Plan(NamedTuple):
    """What to train: data, architecture, options, device, the starting model, and the command that began it.

    `epoch_seconds` is the expected time of an epoch, None if unknown. `budget` is the time of the training in seconds,
    None for a number of epochs.
    """

    dataset: Dataset
    config: VAEConfig
    options: TrainingOptions
    device: torch.device
    start: Checkpoint | None
    command: str
    epoch_seconds: float | None = None
    budget: float | None = None

    @property
    def validation(self) -> int:
        """The number of images for validation."""
        return self.options.holdout if self.dataset.validation is None else len(self.dataset.validation)

    def training(self) -> Training:
        """A new training by this plan."""
        return Training(self.config, self.dataset.train, self.options, self.device, self.start, self.dataset.validation)


@dataclass
class _Values:
    """Values of options: given ones, and defaults that are chosen one after the other."""

    values: dict[str, Any]
    choices: list[Choice] = field(default_factory=list)

    def choose(self, choices: Iterable[Choice]) -> None:
        """Take the choices for options that have no value yet."""
        for choice in choices:
            if self.values.get(choice.option) is None:
                self.values[choice.option] = choice.value
                self.choices.append(choice)

    def options(self) -> TrainingOptions:
        """The training options; raises `OptionsError`."""
        names = TrainingOptions.__dataclass_fields__
        return TrainingOptions(**{name: value for name, value in self.values.items() if name in names and value != ""})


def new_plan(run: TrainingRun, values: dict[str, Any], hardware: Hardware, minutes: float | None) -> Plan:
    """Plan a new training; options that are None are chosen from the data and reported. Raises `UserError`."""
    chosen = _Values({name: value for name, value in values.items() if value is not None})
    chosen.options()  # refuses invalid values before the data are read
    start = read_checkpoint(run.start) if run.start else None
    architecture = _architecture(chosen.values)
    if start:
        architecture = architecture.continued_from(start.vae.config, run.given, "--start has it")
    shape = architecture.resized_shape()
    device = hardware.use()
    dataset = _read(run, shape, partial(_require_possible_so_far, chosen.values, start))
    if dataset.shape_reason:
        chosen.choices.append(Choice("image_shape", ",".join(map(str, dataset.image_shape)), dataset.shape_reason))
    has_test, has_validation = dataset.test is not None, dataset.validation is not None
    chosen.choose(choose_data_options(len(dataset.train), has_test=has_test, has_validation=has_validation))
    dataset = split_by_content(dataset, chosen.values["test_share"], chosen.values["seed"])
    images = ImageStatistics.of(dataset.train)
    if not start:
        has_networks = bool(NETWORK.keys() & chosen.values.keys())
        chosen.choose(choose_architecture(images, with_networks=not has_networks))
        has_amx = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
        chosen.choose([] if has_networks else choose_precision(images, has_amx=has_amx))
        architecture = _architecture(chosen.values)
    config = architecture.config(dataset.image_shape)
    chosen.values.setdefault("binarize", default_binarize(config.likelihood))
    plan = Plan(dataset, config, chosen.options(), device, start, command_line())
    budget = None if minutes is None else 60 * minutes * BUDGET_SHARE
    epoch_seconds, options = _choose_run(plan, chosen, budget)
    steps = options.epochs * steps_per_epoch(_trained(plan), options.batch_size)
    require_possible(images, config.likelihood, options, steps, plan.validation)
    _report_choices(chosen.choices)
    if not start:
        _warn_of_few_epochs(options, _trained(plan), epoch_seconds)
    return plan._replace(options=options, epoch_seconds=epoch_seconds, budget=budget)


def resumed_plan(run: TrainingRun, values: dict[str, Any], hardware: Hardware) -> Plan:
    """Plan to continue a training as it is recorded; raises `OptionsError` for a given option that contradicts it."""
    recorded = read_recorded_training(run.out)
    start = read_checkpoint(run.start) if run.start else None
    if start and start.digest != recorded.start:
        raise OptionsError(f"start: expected {recorded.start!r}, as in the snapshot, got {start.digest!r}")
    given = {name: value for name, value in values.items() if name in run.given}
    architecture = _architecture(given).continued_from(recorded.config, run.given, IN_SNAPSHOT)
    names = TrainingOptions.__dataclass_fields__
    options = continued_options(
        recorded.options, {name: value for name, value in given.items() if name in names}, IN_SNAPSHOT
    )
    if "device" not in run.given:
        hardware = hardware._replace(device=recorded.device)
    device = hardware.use()
    dataset = split_by_content(_read(run, architecture.resized_shape()), options.test_share, options.seed)
    config = architecture.config(dataset.image_shape)
    return Plan(dataset, config, options, device, start, _recorded_command(run))


def _require_possible_so_far(given: dict[str, Any], start: Checkpoint | None, outline: Outline) -> None:
    """Raise `UserError` for given options that cannot work with any images of this outline.

    Options that are not given have the values that refuse least.
    """
    images = ImageStatistics(outline.image_shape, outline.images, grey_share=1.0)
    likelihood = start.vae.config.likelihood if start else given.get("likelihood", "")
    if not start:
        _require_architecture(given, images)
    least = {"epochs": MAX_EPOCHS, "batch_size": LEAST_BATCH, "warmup": 0, "kl_warmup": 0.0}
    options = _Values({**least, "binarize": default_binarize(likelihood), **given}).options()
    steps = options.epochs * steps_per_epoch(outline.images, options.batch_size)
    validation = 1 if outline.has_validation else given.get("holdout", 1)
    require_possible(images, likelihood, options, steps, validation)


def _require_architecture(given: dict[str, Any], images: ImageStatistics) -> None:
    """Raise `UserError` for an architecture that has no images; a latent for chosen networks is left open."""
    has_networks = bool(NETWORK.keys() & given.keys())
    fixed = _Values({option: value for option, value in given.items() if has_networks or option != "latent"})
    fixed.choose(choose_architecture(images, with_networks=not has_networks))
    _architecture(fixed.values).config(images.image_shape)


def _read(run: TrainingRun, shape: tuple[int, ...] | None, check: CheckOutline | None = None) -> Dataset:
    dataset = read_dataset(run.data, shape, check)
    report_skipped(dataset)
    return dataset


def _architecture(values: dict[str, Any]) -> Architecture:
    """The architecture of given values; what is missing has any valid value until it is chosen."""
    defaults = NETWORK | {"image_shape": "", "latent": "32", "likelihood": "bernoulli", "scale": 0.1}
    return Architecture(**{name: values.get(name, value) for name, value in defaults.items()})


def _choose_run(plan: Plan, chosen: _Values, budget: float | None) -> tuple[float, TrainingOptions]:
    """Choose batch size, epochs and schedules; return the expected seconds of an epoch, and the options."""
    images = _trained(plan)
    batch_size, epochs = choose_length(images, chosen.values)
    is_given = "epochs" in chosen.values
    chosen.choose([batch_size])
    epoch_seconds = _measure_epoch(plan._replace(options=chosen.options()))
    chosen.choose([epochs if budget is None else _budgeted_epochs(epoch_seconds, budget)])
    epochs = chosen.values["epochs"]
    steps = epochs * steps_per_epoch(images, chosen.values["batch_size"])
    if not is_given:
        chosen.choose(choose_patience(epochs, steps, plan.validation))
    if plan.start:
        chosen.choose([Choice("kl_warmup", 0.0, "the training starts from a model")])
    chosen.choose(choose_schedules(epochs, steps))
    return epoch_seconds, chosen.options()


def _trained(plan: Plan) -> int:
    """The number of images that are trained on."""
    held_out = 0 if plan.dataset.validation is not None else plan.options.holdout
    return max(1, len(plan.dataset.train) - held_out)


def _measure_epoch(plan: Plan) -> float:
    """Return the expected seconds of an epoch; validation has no gradients."""
    training = plan.training()
    return (len(training.images) + len(training.heldout) / 3) / measure_speed(training)


def _budgeted_epochs(epoch_seconds: float, budget: float) -> Choice:
    spent = f"{budget / BUDGET_SHARE / 60:g} minutes with {epoch_seconds:.3g} s for each epoch"
    if epoch_seconds > budget:
        return Choice("epochs", 1, f"{spent}; even one takes longer, --threads 1 is faster where cores are busy")
    return Choice("epochs", min(10**6, int(budget / epoch_seconds)), f"{spent}, adapted while it runs")


def _warn_of_few_epochs(options: TrainingOptions, images: int, epoch_seconds: float) -> None:
    """Warn of a training of less than half of the steps that are chosen for so many images."""
    _, usual = choose_length(images, {"batch_size": options.batch_size})
    if options.epochs < usual.value / 2:
        few = f"{options.epochs} epochs are few for {images} images, and may leave reconstructions blank"
        notify(
            f"warning: {few}; by default it would be {usual.value}, in about {duration(usual.value * epoch_seconds)}"
        )


def _report_choices(choices: list[Choice]) -> None:
    if choices:
        notify("chosen from the data; an option overrides each:")
    for reason, same in groupby(choices, lambda choice: choice.reason):
        options = " ".join(f"--{choice.option.replace('_', '-')} {quote(str(choice.value))}" for choice in same)
        notify(f"  {options}: {reason}")


def _recorded_command(run: TrainingRun) -> str:
    """The command that began the training in a folder."""
    with suppress(CheckpointError):  # a missing or damaged file is written anew
        metrics, _ = read_metrics(read_json(run.out / METRICS))
        if metrics.training:
            return metrics.training.command
    return command_line()
