"""Scores of a whole data set, for `vae score`: what the service answers for each image, in one table."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import typer

from app.api.scoring import Columns, require_decidable, score_columns, typicality_columns
from app.batching.rows import RowBatch
from app.cli.errors import UNREADABLE
from app.cli.progress import notify
from app.codecs.grid import bands
from app.codecs.images import Fit
from app.codecs.png import write_png_bands
from app.context import Operation
from app.datasets.images import read_chunks
from app.datasets.options import MAX_SEED
from app.datasets.output import require_outside, require_regular
from app.errors import ServiceError
from app.inference.device import TorchDevice, configure_torch
from app.inference.loaded_model import Scores
from app.inference.noise import Noise
from app.runtimes.base import CompiledModel
from app.runtimes.selection import compile_model
from app.settings import Settings
from model.data.arrays import DataError
from model.elbo import SCORE_DRAWS
from model.errors import OptionsError, reporting_file
from model.files import renamed_when_written, write_atomically
from model.formats import read_model
from model.interface import StoredModel
from model.validation import require

ANOMALOUS = 4
"""Exit code of a data set with a larger share of anomalous images than allowed."""

SHOWN = 64
"""Images of the pictures of the least and most typical ones."""

BINS, WIDTH = 10, 40
"""Bars of the histogram, and characters of the longest."""


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """Options of `vae score`: as the parameters of /score, `limit` of 0 for all images.

    `fail_above` is the largest share of anomalous images that is no failure; it needs `alpha`. Raises `OptionsError`.
    """

    samples: int | None = None
    seed: int = 0
    alpha: float | None = None
    fail_above: float | None = None
    fit: Fit = "resize"
    limit: int = 0

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 < self.alpha < 1:
            raise OptionsError(f"alpha: expected a number between 0 and 1, got {self.alpha}")
        if self.fail_above is not None and (self.alpha is None or not 0 <= self.fail_above <= 1):
            raise OptionsError(f"fail_above: expected a share from 0 to 1 together with alpha, got {self.fail_above}")
        if self.fit not in get_args(Fit):
            raise OptionsError(f"fit: expected {', '.join(get_args(Fit))}, got {self.fit!r}")
        if self.samples is not None and self.samples < 1:
            raise OptionsError(f"samples: expected at least 1, got {self.samples}")
        require(OptionsError, "seed", 0 <= self.seed <= MAX_SEED, f"0 to {MAX_SEED}", self.seed)
        require(OptionsError, "limit", self.limit >= 0, "0 or more images", self.limit)


@dataclass(slots=True)
class ScoreTable:
    """Ids of images with the fields of their scores, and the ids of unreadable ones with the reason."""

    ids: list[str] = field(default_factory=list)
    parts: list[Columns] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    @property
    def columns(self) -> Columns:
        """The fields of all scores, each [N]."""
        return {name: np.concatenate([part[name] for part in self.parts]) for name in self.parts[0]}


class _Extreme(NamedTuple):
    order: np.ndarray
    pixels: np.ndarray


class ExtremeImages:
    """The images with the least values of an order so far, uint8 [n, C, H, W], least first."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: _Extreme | None = None

    def add(self, order: np.ndarray, pixels: np.ndarray) -> None:
        """Add images [N, C, H, W] with their order [N]."""
        if self._kept:
            order = np.concatenate([self._kept.order, order])
            pixels = np.concatenate([self._kept.pixels, pixels])
        first = np.argsort(order, kind="stable")[: self._count]
        self._kept = _Extreme(order[first], pixels[first])

    def picture(self) -> bytes:
        """Return a PNG file of the images in a grid; there is at least one."""
        assert self._kept is not None  # noqa: S101  # for the type checker
        shape, rows = bands(self._kept.pixels, None)
        return write_png_bands(shape, rows)


class DatasetScorer:
    """Computes the scores of the service for the images of a source, row by row as it does."""

    def __init__(self, stored: StoredModel, settings: Settings, options: ScoreOptions) -> None:
        self._stored, self._options, self._spec = stored, options, stored.model.spec
        if options.alpha is not None:
            try:
                require_decidable(self._spec, stored.typicality, options.alpha)
            except ServiceError as error:
                raise OptionsError(error.detail) from None
        configure_torch(settings)
        self._device = TorchDevice(settings)
        compiled = partial(compile_model, stored.model, settings, self._device.target)
        self._compiled: CompiledModel = self._device.translating_errors(compiled)
        self._noise = Noise(options.seed)
        typicality = stored.typicality
        self._size = typicality.image_shape[1:] if typicality else self._spec.sizes.default_size

    def score(self, data: Sequence[str], least: ExtremeImages, most: ExtremeImages) -> ScoreTable:
        """Score the images of a source, and show the least and the most typical ones. Raises `DataError`."""
        table, (height, width) = ScoreTable(), self._size
        for chunk in read_chunks(data, self._spec, (height, width), self._options.fit, self._options.limit):
            table.unreadable += chunk.unreadable
            if not len(chunk.ids):
                continue
            columns, order = self._scored(chunk.pixels)
            table.ids += chunk.ids
            table.parts.append(columns)
            least.add(order, chunk.pixels)
            most.add(-order, chunk.pixels)
        if not table.ids:
            raise DataError(f"{', '.join(data)}: no image can be read: {table.unreadable[0][1]}")
        return table

    def _scored(self, pixels: np.ndarray) -> tuple[Columns, np.ndarray]:
        """Return the fields of the scores of images, and an order in which less typical images are lower."""
        found, typicality = self._statistics(pixels), self._stored.typicality
        with_likelihood = self._options.samples is not None
        columns = score_columns(found, self._spec, self._stored.metrics.reference, with_likelihood=with_likelihood)
        if typicality is None:
            return columns, columns.get("elbo", -columns.get("squared_error", np.zeros(len(pixels))))
        return columns | typicality_columns(found, typicality, self._options.alpha), -found.untypical(typicality)

    def _statistics(self, pixels: np.ndarray) -> Scores:
        inputs: tuple[np.ndarray, ...] = (pixels,)
        if self._spec.has_elbo:
            latent = self._spec.sizes.latents_of(*pixels.shape[-2:])
            inputs = (pixels, self._noise.for_images(pixels, self._options.samples or SCORE_DRAWS, *latent).numpy())
        batch = RowBatch(inputs)
        rows = [self._run(batch[row : row + 1]) for row in range(len(batch))]
        return Scores.of_columns(self._spec, RowBatch.join(rows).columns)

    def _run(self, row: RowBatch) -> RowBatch:
        run = partial(self._compiled.run, Operation.SCORE, row, deterministic=True)
        return self._device.translating_errors(run)


def run_score(data: Sequence[str], settings: Settings, out: Path, options: ScoreOptions) -> None:
    """Write the scores of a data set, its least and most typical images and a histogram.

    Exits with `ANOMALOUS` if a larger share than `fail_above` is anomalous.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise OptionsError(f"out: expected a file .csv or .parquet, got {out.name}")
    if out.suffix == ".parquet":
        import_module("pyarrow")  # of an extra; missing, it is reported before the images are scored
    if not out.parent.is_dir():
        raise OptionsError(f"out: expected a file in a folder that exists, got {out}")
    pictures = {name: out.with_name(f"{out.name}.{name}.png") for name in ("least", "most")}
    for path in (out, *pictures.values()):
        require_regular(path)
        require_outside(path, data)
    stored = read_model(settings.model)
    for warning in stored.warnings:
        notify(warning)
    least, most = ExtremeImages(SHOWN), ExtremeImages(SHOWN)
    table = DatasetScorer(stored, settings, options).score(data, least, most)
    columns = table.columns
    _write(out, table, columns)
    write_atomically(pictures["least"], least.picture())
    write_atomically(pictures["most"], most.picture())
    typer.echo(f"{len(table.ids):,} images in {out}; the {SHOWN} least and most typical ones beside it")
    for line in histogram(columns):
        typer.echo(line)
    for name, reason in table.unreadable:
        notify(f"{name}: left out: {reason}")
    _report_anomalies(columns, options)
    if table.unreadable:
        raise typer.Exit(UNREADABLE)


def histogram(columns: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Yield the lines of a histogram of the typicality, or else the percentile, beside that of the reference."""
    name, scale = ("typicality", 1.0) if "typicality" in columns else ("percentile", 100.0)
    if name not in columns:
        return
    counts, edges = np.histogram(columns[name], BINS, (0.0, scale))
    shares = counts / counts.sum()
    yield f"{name:<14}{'share':>7}  (reference: {1 / BINS:.0%} in each row)"
    for share, low, high in zip(shares, edges, edges[1:], strict=False):
        bar = "#" * round(WIDTH * share / max(shares.max(), 1 / BINS))
        yield f"{low:>4g} to {high:<6g}{share:>7.1%}  {bar}"


def _write(out: Path, table: ScoreTable, columns: Columns) -> None:
    """Write a row for each image: its path, the fields of its score, and why an image has none.

    A table that was there stays until the new one is complete.
    """
    rows = len(table.ids)
    content: dict[str, list[Any]] = {"path": [*table.ids, *(name for name, _ in table.unreadable)]}
    content |= {name: [*column.tolist(), *[None] * len(table.unreadable)] for name, column in columns.items()}
    content["error"] = [*[""] * rows, *(reason for _, reason in table.unreadable)]
    with renamed_when_written(out) as partial, reporting_file(out):
        if out.suffix == ".parquet":
            import pyarrow as pa  # noqa: PLC0415  # of an extra
            import pyarrow.parquet as pq  # noqa: PLC0415

            pq.write_table(pa.table(content), partial)
            return
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(content)
            writer.writerows(zip(*content.values(), strict=True))


def _report_anomalies(columns: Columns, options: ScoreOptions) -> None:
    if options.alpha is None:
        return
    share = float(columns["anomalous"].mean())
    typer.echo(f"{share:.2%} have a typicality of at most {options.alpha:g}; of normal images {options.alpha:.2%}")
    if options.fail_above is not None and share > options.fail_above:
        notify(f"more than {options.fail_above:.2%} of the images are anomalous")
        raise typer.Exit(ANOMALOUS)
