"""Commands on whole data sets: `vae encode`, `vae decode` and `vae reconstruct`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from app.cli.errors import UNREADABLE
from app.cli.progress import NAME, notify
from app.cli.serve import settings_with
from app.datasets.decode import ImagesSummary, decode_dataset, reconstruct_dataset
from app.datasets.encode import EncodeSummary, encode_dataset
from app.datasets.image_folder import UNREADABLE as REASONS
from app.datasets.options import EncodeOptions, Hardware, ImageOptions, Progress, ProgressCallback
from app.inference.image_sizes import Size
from model.errors import OptionsError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as of a shell."""


def run_encode(
    source: Sequence[str], model: str, out: Path, options: EncodeOptions, hardware: Hardware, ray: str = ""
) -> None:
    """Encode a data set, with a progress bar, and print what was done; on the Ray cluster at an address if given."""
    encode = encode_dataset
    if ray:
        from app.datasets.ray_data import encode_on_ray  # noqa: PLC0415  # an extra

        encode = partial(encode_on_ray, address=ray)
    with interruptible(out), progress_bar("encoding") as progress:
        summary = encode(source, settings_with(model=model).model, out, options, hardware, progress)
    report(summary, out)


def run_decode(
    latents: Path, model: str, out: Path, options: ImageOptions, hardware: Hardware, draw: int | None
) -> None:
    """Decode the latents of a data set, with a progress bar, and print what was done."""
    with interruptible(out), progress_bar("decoding") as progress:
        summary = decode_dataset(latents, settings_with(model=model).model, out, options, hardware, progress, draw=draw)
    report_images(summary, out)


def run_reconstruct(
    source: Sequence[str],
    model: str,
    out: Path,
    encoding: EncodeOptions,
    options: ImageOptions,
    hardware: Hardware,
    seed: int | None,
) -> None:
    """Reconstruct a data set, with a progress bar, and print what was done."""
    with interruptible(out), progress_bar("reconstructing") as progress:
        summary = reconstruct_dataset(
            source, settings_with(model=model).model, out, encoding, options, hardware, progress, seed=seed
        )
    report_images(summary, out)


def report_images(summary: ImagesSummary, out: Path) -> None:
    """Print which images were written; exit with `UNREADABLE` if some were left out."""
    speed = _speed(summary.written, summary.seconds, summary.waited)
    typer.echo(f"wrote {_counted(summary.written)} to {out}, {summary.unchanged} were there{speed}")
    if summary.unreadable:
        notify(f"{_counted(summary.unreadable)} could not be computed; {out / REASONS} has the reasons")
        _report_errors(summary.errors)


def report(summary: EncodeSummary, out: Path) -> None:
    """Print what a run has done; exit with `UNREADABLE` if images of the source have no latents."""
    contents, speed = summary.contents, _speed(summary.encoded, summary.seconds, summary.waited)
    typer.echo(f"encoded {_counted(summary.encoded)}, {summary.unchanged} were there{speed}")
    typer.echo(f"{out} has {_counted(contents.images - contents.unreadable)} in {_counted(contents.shards, 'shard')}")
    if unreadable := summary.unreadable + summary.still_unreadable:
        notify(f"{_counted(unreadable)} cannot be read; the column `error` of the index has the reasons")
        _report_errors(summary.errors)


def _report_errors(errors: Sequence[str]) -> None:
    for error in errors:
        notify(f"  {error}")
    raise typer.Exit(UNREADABLE)


def _counted(count: int, noun: str = "image") -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _speed(images: int, seconds: float, waited: float) -> str:
    """Return the images per second, if there were any."""
    rate = images / max(seconds, 1e-9)
    return f"; {rate:.0f} images/s, the device waited {100 * waited:.0f} % of the time" if images else ""


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


def parse_sizes(text: str) -> tuple[Size, ...]:
    """Parse the sizes WxH,WxH of --bucket to (H, W). Raises `UserError` for another text."""
    found = []
    for part in filter(None, text.replace(" ", "").split(",")):
        width, _, height = part.partition("x")
        if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            raise OptionsError(f"bucket: expected sizes such as 512x512,768x512, got {part!r}")
        found.append((int(height), int(width)))
    return tuple(found)
