"""Calibration of the typicality of a model by normal images, as the service scores them: grey levels, not binarised."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch

from model.data.arrays import DataError, Images, batches
from model.data.splits import held_out
from model.interface import ImageModel
from model.pixels import to_unit_interval
from model.statistics import image_statistics, statistic_names
from model.typicality import Typicality

SHARE = 0.5
"""Share of the images that estimate the density; the others are its ranks."""


SEED = 2**63
"""Seed of that division. No training has it: all images of its test split would fall into one half."""


class MeasuredStatistics(NamedTuple):
    """Statistics [N, S] and codes [N, J] of images."""

    values: np.ndarray
    codes: np.ndarray


def calibrate(
    model: ImageModel,
    images: Images,
    source: str = "images",
    progress: Callable[[int], None] | None = None,
) -> Typicality:
    """Calibrate the typicality by normal images, uint8 [N, C, H, W], that the model was not trained on.

    They are divided by their content, so that copies of an image are not separated. `progress` is called with the
    number of images that are done. Raises `DataError` for too few images.
    """
    found = measure_statistics(model, batches(images), progress)
    chosen = held_out(images, SHARE, SEED)
    names, shape = statistic_names(model.spec), images.shape[1:]
    try:
        return Typicality.fit(model.spec.digest, shape, names, found.values, found.codes, chosen, source)
    except ValueError as error:
        raise DataError(f"{source}: {error}") from None


@torch.inference_mode()
def measure_statistics(
    model: ImageModel, images: Iterable[Images], progress: Callable[[int], None] | None = None
) -> MeasuredStatistics:
    """Compute the statistics of batches of images, uint8 [B, C, H, W], on the CPU."""
    values, codes = [], []
    for batch in images:
        found = image_statistics(model, to_unit_interval(torch.tensor(batch)))
        values.append(found.values.numpy())
        codes.append(found.code.numpy())
        if progress:
            progress(sum(map(len, values)))
    return MeasuredStatistics(np.concatenate(values), np.concatenate(codes))
