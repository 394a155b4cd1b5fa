"""Calibration of the typicality of a model by normal images, for `vae calibrate`."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import typer

from app.cli.progress import notify
from app.datasets.images import read_chunks
from model.data.arrays import DataError
from model.errors import OptionsError
from model.evaluation.calibration import calibrate
from model.files import CheckpointError
from model.formats import read_model
from model.formats.hub import is_hub_name
from model.interface import ImageModel
from model.shipped import find_model
from model.typicality import MIN_IMAGES, Typicality
from model.typicality_files import TYPICALITY, write_typicality
from model.validation import require

MAX_IMAGES = 20_000
"""Images that are used unless another limit is given; more hardly change the calibration."""

MAX_PIXEL_BYTES = 2**32
"""Bytes of the pixels of all images, which are in memory at once."""


def run_calibration(model: Path, data: Sequence[str], limit: int) -> None:
    """Calibrate a model by the images of a source, write typicality.json into its folder, and say what was done.

    Raises `CheckpointError` for a folder that cannot be written, `DataError` for too few images.
    """
    require(OptionsError, "limit", limit >= 0, "0 or more images", limit)
    if is_hub_name(model):
        raise CheckpointError(f"{model}: expected a folder for {TYPICALITY}, got a name on the hub")
    model = find_model(model)
    stored = read_model(model)
    if not os.access(model, os.W_OK):
        raise CheckpointError(f"{model}: the folder cannot be written")
    found = calibrated(stored.model, data, limit or MAX_IMAGES)
    path = write_typicality(model, found)
    typer.echo(
        f"calibrated {stored.model.spec.identity} by {found.images:,} images: {', '.join(found.statistics)}\n"
        f"{path}: a typicality is a rank among {len(found.ranks):,} of them, at least {found.smallest:.2g}"
    )


def calibrated(model: ImageModel, data: Sequence[str], limit: int) -> Typicality:
    """Return the calibration of a model by the first images of a source, fitted to its default size."""
    spec = model.spec
    limit = max(MIN_IMAGES, min(limit, MAX_PIXEL_BYTES // spec.image_values))
    parts = []
    for chunk in read_chunks(data, spec, spec.sizes.default_size, limit=limit):
        parts += [chunk.pixels] if len(chunk.ids) else []
        for name, reason in chunk.unreadable:
            notify(f"{name}: left out: {reason}")
    if not parts:
        raise DataError(f"{', '.join(data)}: no image can be read")
    source = f"images of {', '.join(Path(location).name for location in data)}"
    return calibrate(model, np.concatenate(parts), source)
