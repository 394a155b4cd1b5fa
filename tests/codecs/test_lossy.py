"""Images with loss: sizes, channels, quality and the limits of the formats."""

import io

import numpy as np
import pytest
from PIL import Image

from app.codecs.lossy import MAX_SIDES, write_lossy
from app.codecs.media_types import JPEG, WEBP
from app.errors import UnprocessableContent

MEDIA = pytest.mark.parametrize("media", [JPEG, WEBP])


@MEDIA
@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_has_nearly_the_pixels(media, channels):
    row = np.arange(0, 240, 4, dtype=np.uint8)
    pixels = np.stack([np.tile(row, (33, 1))] * channels)
    image = Image.open(io.BytesIO(write_lossy(media, pixels, 95)))
    assert (image.get_format_mimetype(), image.size) == (media, (60, 33))
    read = np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(33, 60, channels).transpose(2, 0, 1)
    assert np.abs(read.astype(int) - pixels).max() < 12


@MEDIA
def test_a_lower_quality_is_smaller(media):
    noise = np.random.default_rng(0).integers(256, size=(3, 64, 64), dtype=np.uint8)
    sizes = [len(write_lossy(media, noise, quality)) for quality in (1, 50, 100)]
    assert sizes == sorted(sizes)
    assert sizes[0] * 2 < sizes[2]


@MEDIA
def test_an_image_that_the_format_cannot_have_is_refused(media):
    with pytest.raises(UnprocessableContent, match=f"more than the {MAX_SIDES[media]} pixels"):
        write_lossy(media, np.zeros((1, 1, MAX_SIDES[media] + 1), np.uint8), 90)
    assert write_lossy(media, np.zeros((1, 1, MAX_SIDES[media]), np.uint8), 90)
