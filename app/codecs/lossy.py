"""JPEG and WebP files with loss, by Pillow: smaller than PNG, for people to look at."""

import io

import numpy as np
from PIL import Image

from app.codecs.media_types import JPEG, WEBP
from app.errors import UnprocessableContent

DEFAULT_QUALITY = 90

MAX_SIDES = {JPEG: 65_500, WEBP: 16_383}
"""Pixels of the longest side that the libraries of each format write."""

_FORMATS = {JPEG: "JPEG", WEBP: "WEBP"}
_WEBP_METHOD = 2
"""Effort of the WebP encoder, 0 to 6: the default, 4, takes twice as long for files that are a few percent smaller."""


def write_lossy(media_type: str, pixels: np.ndarray, quality: int) -> bytes:
    """Write one image, uint8 [C, H, W] with C of 1 or 3, in a quality of 1 to 100.

    Raises `UnprocessableContent` for an image that is too large for the format.
    """
    _, height, width = pixels.shape
    form, most = _FORMATS[media_type], MAX_SIDES[media_type]
    if max(height, width) > most:
        raise UnprocessableContent(
            f"the image of {width} x {height} has a side of more than the {most} pixels that {form} has; ask for "
            "image/png, or for other columns"
        )
    stream = io.BytesIO()
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.save(stream, form, quality=quality, **({"method": _WEBP_METHOD} if media_type == WEBP else {}))
    return stream.getvalue()
