"""Progress bars, tables and messages of `vae train` and `vae evaluate`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from model.data.arrays import Dataset
from model.data.mnist import Downloaded
from model.records import EpochRecord
from model.training.options import TrainingOptions
from model.training.trainer import Progress as Step
from model.training.trainer import ProgressCallback

NAME = TextColumn("{task.description}")
MAX_NOTED_FILES = 10


def print_epoch(record: EpochRecord, options: TrainingOptions) -> None:
    """Print one line for a finished epoch; the bound that is climbed stands before the ELBO if it is another one."""
    climbed = "" if record.objective is None else f"{objective_name(options)} {record.objective:.2f}  "
    terms = f"elbo {record.elbo:.2f}  reconstruction {record.reconstruction:.2f}  kl {record.kl:.2f}"
    speed = f"{record.images_per_second:.0f} images/s  {record.seconds:.0f} s"
    line = f"epoch {record.epoch}/{options.epochs}  {climbed}{terms}{_validation(record, options)}  {speed}"
    print(line, flush=True)  # noqa: T201  # the output of the command


def _validation(record: EpochRecord, options: TrainingOptions) -> str:
    if record.validation is None:
        return ""
    if record.objective_validation is None:
        return f"  validation {record.validation:.2f}"
    climbed = f"{objective_name(options)} {record.objective_validation:.2f}"
    return f"  validation {climbed}, elbo {record.validation:.2f}"


def objective_name(options: TrainingOptions) -> str:
    """The name of the bound that is climbed, such as "dreg" or "elbo with beta 4"."""
    weighted = "" if options.beta == 1 else f" with beta {options.beta:g}"
    return f"{options.objective}{weighted}"


def notify(note: str) -> None:
    """Print a line on stderr for the user; stdout is the output of the command."""
    typer.echo(f"vae: {note}", err=True)


def report_skipped(dataset: Dataset) -> None:
    """Report the files that could not be read."""
    if dataset.skipped:
        notify(f"warning: skipped {len(dataset.skipped)} files that cannot be read:")
    for reason in dataset.skipped[:MAX_NOTED_FILES]:
        notify(f"  {reason}")
    if len(dataset.skipped) > MAX_NOTED_FILES:
        notify(f"  and {len(dataset.skipped) - MAX_NOTED_FILES} more")


def duration(seconds: float) -> str:
    """Write a time for people, such as "40 seconds", "12 minutes" or "3.5 hours"."""
    units = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
    size, unit = next((size, unit) for size, unit in units if seconds >= 1.5 * size or size == 1)
    return f"{seconds / size:.{1 if size > 60 and seconds < 36_000 else 0}f} {unit}"


def print_figures(figures: dict[str, Any]) -> None:
    """Print the figures as a table."""
    table = Table("figure", "value")
    for name, value in figures.items():
        shown = f"{value:.4f}" if isinstance(value, float) else str(value)
        table.add_row(name.replace("_", " "), Text(shown))  # a path may contain markup
    Console().print(table)


@contextmanager
def training_bar(options: TrainingOptions) -> Iterator[ProgressCallback | None]:
    """Show a progress bar over all steps with the means of the epoch so far; None without a terminal."""
    bound = "elbo" if options.is_elbo else options.objective.replace("elbo", "bound")
    terms = bound + " {task.fields[objective]:.2f}  kl {task.fields[kl]:.2f}"  # their sum does not fit into 80 columns
    if options.is_elbo:
        terms = terms.replace("[objective]", "[elbo]")  # without the warm-up of the KL divergence
    text = TextColumn(terms + "  {task.fields[images_per_second]:.0f} images/s")
    if not Console().is_terminal:
        yield None
        return
    with Progress(NAME, BarColumn(12), TimeRemainingColumn(), text) as bar:
        task = bar.add_task("starting", total=None, elbo=0.0, objective=0.0, kl=0.0, images_per_second=0.0)

        def watch(step: Step) -> None:
            done = (step.epoch - 1) * step.steps + step.step
            name = f"epoch {step.epoch}/{step.epochs}"
            bar.update(task, description=name, completed=done, total=step.epochs * step.steps, **asdict(step))

        yield watch


@contextmanager
def evaluation_bar(images: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar over the images."""
    with Progress(NAME, BarColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("scoring", total=images)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def download_bar() -> Iterator[Callable[[Downloaded], None]]:
    """Show a progress bar for each downloaded file."""
    with Progress(NAME, BarColumn(), DownloadColumn(), console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}

        def watch(file: Downloaded) -> None:
            if file.name not in tasks:
                tasks[file.name] = bar.add_task(file.name, total=file.size or None)
            bar.update(tasks[file.name], completed=file.done)

        yield watch
