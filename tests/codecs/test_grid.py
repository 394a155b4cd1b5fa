"""Image grids contain every image, and are written band by band."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from app.codecs.grid import bands
from app.codecs.png import write_png, write_png_bands

sides = st.integers(1, 9)


def pixels_of(content: bytes) -> np.ndarray:
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@settings(max_examples=150)
@given(st.data(), st.sampled_from((1, 3)), sides, sides, st.integers(1, 9), st.none() | st.integers(1, 12))
def test_a_grid_contains_every_image_at_its_place(data, channels, height, width, count, columns):
    pixels = data.draw(arrays(np.uint8, (count, channels, height, width)))
    shape, rows = bands(pixels, columns)
    table = np.concatenate([*rows], axis=1)
    assert table.shape == shape
    across, down = table.shape[2] // width, table.shape[1] // height
    cells = [
        table[:, y * height : (y + 1) * height, x * width : (x + 1) * width] for y in range(down) for x in range(across)
    ]
    assert across == min(columns, count) if columns else across - 1 < count**0.5 <= across
    assert np.array_equal(cells[:count], pixels)
    assert not np.any(cells[count:])
    assert len(cells) - count < across


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("smooth", [False, True])
def test_a_file_written_in_bands_equals_one_written_at_once(channels, smooth):
    pixels = np.random.default_rng(0).integers(0, 256, (channels, 300, 200), np.uint8) // (64 if smooth else 1)
    banded = write_png_bands(pixels.shape, (pixels[:, top : top + 37] for top in range(0, 300, 37)))
    assert np.array_equal(pixels_of(banded), pixels)
    assert len(banded) < 1.01 * len(write_png(pixels))
