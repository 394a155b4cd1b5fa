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

from model.data.mnist import Downloaded
from model.records import EpochRecord
from model.training.trainer import Progress as Step
from model.training.trainer import ProgressCallback

NAME = TextColumn("{task.description}")


def print_epoch(record: EpochRecord, epochs: int) -> None:
    """Print one line for a finished epoch."""
    validation = "" if record.validation is None else f"  validation {record.validation:.2f}"
    terms = f"elbo {record.elbo:.2f}  reconstruction {record.reconstruction:.2f}  kl {record.kl:.2f}"
    speed = f"{record.images_per_second:.0f} images/s  {record.seconds:.0f} s"
    print(f"epoch {record.epoch}/{epochs}  {terms}{validation}  {speed}", flush=True)  # noqa: T201  # the output of the command


def notify(note: str) -> None:
    """Print a line on stderr for the user; stdout is the output of the command."""
    typer.echo(f"vae: {note}", err=True)


def print_figures(figures: dict[str, Any]) -> None:
    """Print the figures as a table."""
    table = Table("figure", "value")
    for name, value in figures.items():
        shown = f"{value:.4f}" if isinstance(value, float) else str(value)
        table.add_row(name.replace("_", " "), Text(shown))  # a path may contain markup
    Console().print(table)


@contextmanager
def training_bar(epochs: int) -> Iterator[ProgressCallback | None]:
    """Show a progress bar over all steps with the means of the epoch so far; None without a terminal."""
    terms = "elbo {task.fields[elbo]:.2f}  kl {task.fields[kl]:.2f}"  # their sum does not fit into 80 columns
    text = TextColumn(terms + "  {task.fields[images_per_second]:.0f} images/s")
    if not Console().is_terminal:
        yield None
        return
    with Progress(NAME, BarColumn(12), TimeRemainingColumn(), text) as bar:
        task = bar.add_task("starting", total=None, elbo=0.0, kl=0.0, images_per_second=0.0)

        def watch(step: Step) -> None:
            done = (step.epoch - 1) * step.steps + step.step
            name = f"epoch {step.epoch}/{epochs}"
            bar.update(task, description=name, completed=done, total=epochs * step.steps, **asdict(step))

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
