"""Image grids: images side by side without padding, row by row; empty places of the last row are black."""

import math
from collections.abc import Iterator

import numpy as np


def bands(pixels: np.ndarray, columns: int | None) -> tuple[tuple[int, int, int], Iterator[np.ndarray]]:
    """Return the shape [C, rows * H, columns * W] of a grid of images [N, C, H, W], and its rows [C, H, columns * W].

    Without `columns` the grid is about square. Rows are made one at a time.
    """
    count, channels, height, width = pixels.shape
    across = min(columns or math.ceil(math.sqrt(count)), count)
    shape = channels, math.ceil(count / across) * height, across * width
    return shape, (_band(pixels[start : start + across], across) for start in range(0, count, across))


def _band(pixels: np.ndarray, across: int) -> np.ndarray:
    count, channels, height, width = pixels.shape
    band = np.zeros((channels, height, across, width), np.uint8)
    band[:, :, :count] = pixels.transpose(1, 2, 0, 3)
    return band.reshape(channels, height, across * width)
