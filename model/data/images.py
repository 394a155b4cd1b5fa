"""Image preprocessing for training and serving: orientation, transparency, 16-bit levels, channels, size."""

import numpy as np
from PIL import Image

from model.data.arrays import Images

ORIENTATION_TAG = 0x0112
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTER_TURNS = 5
"""The least EXIF orientation that exchanges width and height."""

MAX_EXIF_BYTES = 2**16
"""Largest EXIF block that is read; a JPEG segment cannot be larger."""

BAND_PIXELS = 2**18
"""Pixels that are converted at once. Pillow holds the interpreter's lock meanwhile, for some 5 ms."""


def fit(image: Image.Image, image_shape: tuple[int, ...]) -> Images:
    """Convert an image to uint8 [C, H, W] of `image_shape`, resized with a bilinear filter."""
    channels, height, width = image_shape
    resized = upright(image, channels).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def upright(image: Image.Image, channels: int, orientation: int | None = None) -> Image.Image:
    """Apply the EXIF orientation, flatten transparency onto white, and convert to 8-bit grey (1 channel) or RGB (3).

    `orientation` is the EXIF orientation if the caller has read it already.
    """
    image.load()
    exif_orientation = _read_orientation(image) if orientation is None else orientation
    turned = image.transpose(TRANSPOSITIONS[exif_orientation]) if exif_orientation in TRANSPOSITIONS else image
    mode = "L" if channels == 1 else "RGB"
    return turned if turned.mode == mode and not turned.has_transparency_data else _convert_bands(turned, mode)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height after the EXIF orientation is applied; the pixels are not read."""
    width, height = image.size
    return (height, width) if (_read_orientation(image) or 0) >= QUARTER_TURNS else (width, height)


def _read_orientation(image: Image.Image) -> int | None:
    """Return the EXIF orientation. `ImageOps.exif_transpose` would also rewrite the EXIF block."""
    readable = image.info and len(image.info.get("exif", b"")) <= MAX_EXIF_BYTES
    return image.getexif().get(ORIENTATION_TAG) if readable else None


def _convert_bands(image: Image.Image, mode: str) -> Image.Image:
    """Flatten and convert an image band by band, so that other threads run in between."""
    width, height = image.size
    rows = max(1, BAND_PIXELS // width)
    if rows >= height:
        return _convert(image, mode)
    converted = Image.new(mode, image.size)
    for top in range(0, height, rows):
        converted.paste(_convert(image.crop((0, top, width, min(height, top + rows))), mode), (0, top))
    return converted


def _convert(image: Image.Image, mode: str) -> Image.Image:
    flat = _flattened(image)
    return flat if flat.mode == mode else flat.convert(mode)


def _flattened(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        samples = np.asarray(image, np.float32)
        levels = (samples / 257).round().clip(0, 255).astype(np.uint8)
        if "transparency" in image.info:
            levels[samples == image.info["transparency"]] = 255
        return Image.fromarray(levels)
    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
