"""Error maps: the deviations of an image from its reconstruction as colours."""

from collections.abc import Callable

import numpy as np

from app.errors import DeadlineExceeded

DEVIATIONS_SHOWN = 6.0
"""Standard deviations of p(x|z) that have the last colour."""

_COLORS = ((0, 0, 0), (72, 12, 104), (178, 42, 92), (242, 110, 32), (250, 194, 62), (255, 255, 230))
"""Colours at equal distances, from no deviation to the largest; their luminance increases."""

_PLACES = np.linspace(0, len(_COLORS) - 1, 256)
_TABLE = np.array(
    [np.interp(_PLACES, range(len(_COLORS)), column).round() for column in zip(*_COLORS, strict=True)], np.uint8
)


def color_map(deviations: np.ndarray, top: float, expired: Callable[[], bool]) -> np.ndarray:
    """Return the root mean squares over the channels of deviations [N, C, H, W] as colours, uint8 [N, 3, H, W].

    A pixel without a deviation is black, one of `top` and more has the last colour.

    Raises `DeadlineExceeded` between two images once `expired` answers true.
    """
    count, _, height, width = deviations.shape
    colors = np.empty((count, 3, height, width), np.uint8)
    for image, mapped in zip(deviations, colors, strict=True):
        if expired():
            raise DeadlineExceeded("the error maps were not computed within the request's deadline")
        magnitude = np.sqrt(np.square(image).mean(0))
        np.take(_TABLE, (np.minimum(magnitude / top, 1) * 255).round().astype(np.uint8), axis=1, out=mapped)
    return colors
