"""Commands on whole data sets: `vae encode`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from app.cli.progress import NAME, notify
from app.codecs.images import Fit
from app.datasets.encode import EncodeSummary, encode_dataset
from app.datasets.options import EncodeOptions, Hardware, Progress, ProgressCallback, StoredType
from app.inference.image_sizes import Size
from app.settings import read_settings
from model.errors import UserError

UNREADABLE = 3
"""Exit code of a command that has left out images that it could not read."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as of a shell."""


def encode_options(*, fit: str, bucket: str, dtype: str, **others: Any) -> EncodeOptions:
    """Return the options of `vae encode`. Raises `UserError` for a value that an option does not take."""
    _require_one_of("fit", fit, get_args(Fit))
    _require_one_of("dtype", dtype, get_args(StoredType))
    for name in ("samples", "shard_size"):
        if others[name] < 0:
            raise UserError(f"{name}: expected 0 or more, got {others[name]}")
    return EncodeOptions(fit=fit, buckets=_sizes(bucket), dtype=dtype, **others)  # type: ignore[arg-type]  # checked


def run_encode(source: Sequence[str], model: str, out: Path, options: EncodeOptions, hardware: Hardware) -> None:
    """Encode a data set, with a progress bar, and print what was done."""
    with interruptible(out), progress_bar("encoding") as progress:
        summary = encode_dataset(source, _model(model), out, options, hardware, progress)
    report(summary, out)


def report(summary: EncodeSummary, out: Path) -> None:
    """Print what a run has done; exit with `UNREADABLE` if images were left out."""
    contents, seconds = summary.contents, max(summary.seconds, 1e-9)
    done = f"encoded {summary.encoded} images, {summary.unchanged} were there"
    speed = f"{summary.encoded / seconds:.0f} images/s, the device waited {100 * summary.waited:.0f} % of the time"
    typer.echo(f"{done}; {speed}" if summary.encoded else done)
    typer.echo(f"{out} has {contents.images - contents.unreadable} images in {contents.shards} shards")
    if contents.unreadable:
        notify(f"{contents.unreadable} images cannot be read; the column `error` of the index has the reasons")
        for error in summary.errors:
            notify(f"  {error}")
        raise typer.Exit(UNREADABLE)


@contextmanager
def interruptible(out: Path) -> Iterator[None]:
    """Say after Ctrl-C that the work can be continued, and exit with `INTERRUPTED`."""
    try:
        yield
    except KeyboardInterrupt:
        notify(f"stopped; {out} is complete up to here, the same command continues it")
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def progress_bar(what: str) -> Iterator[ProgressCallback | None]:
    """Show a progress bar with the images per second, and how long the device waited; None without a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    figures = TextColumn("{task.fields[rate]:.0f} images/s  device waited {task.fields[waited]:.0f} %")
    with Bar(NAME, BarColumn(12), MofNCompleteColumn(), TimeRemainingColumn(), figures, console=console) as bar:
        task = bar.add_task(what, total=None, rate=0.0, waited=0.0)

        def watch(step: Progress) -> None:
            bar.update(task, completed=step.done, total=step.total, rate=step.rate, waited=100 * step.waited)

        yield watch


def _model(model: str) -> Path:
    """Return the model of the option, or that of the settings."""
    return read_settings({"model": model} if model else {}).model


def _require_one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UserError(f"{name}: expected {', '.join(allowed)}, got {value!r}")


def _sizes(text: str) -> tuple[Size, ...]:
    """Parse sizes WxH,WxH to (H, W)."""
    found = []
    for part in filter(None, text.replace(" ", "").split(",")):
        width, _, height = part.partition("x")
        if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            raise UserError(f"bucket: expected sizes such as 512x512,768x512, got {part!r}")
        found.append((int(height), int(width)))
    return tuple(found)
