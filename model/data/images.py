"""Image preprocessing that training and serving share: orientation, transparency, 16 bits, channels, and size."""

import numpy as np
from PIL import Image

from model.data.arrays import Images

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
EXIF = 2**16
"""Bytes of EXIF that are looked at: a JPEG has no room for more in one piece."""


def fit(picture: Image.Image, image_shape: tuple[int, ...]) -> Images:
    """The picture resized: uint8 [C, H, W]."""
    channels, height, width = image_shape
    resized = upright(picture, channels).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def upright(picture: Image.Image, channels: int, orientation: int | None = None) -> Image.Image:
    """Turned as its EXIF asks, on white where it is transparent, 8 bits of grey (1 channel) or of colour (3).

    `orientation` is what EXIF says, where the caller knows it: Pillow is not asked then.
    """
    picture.load()
    asked = _orientation(picture) if orientation is None else orientation
    turned = picture.transpose(TURNS[asked]) if asked in TURNS else picture
    flat, mode = _flattened(turned), "L" if channels == 1 else "RGB"
    return flat if flat.mode == mode else flat.convert(mode)


def _orientation(picture: Image.Image) -> int | None:
    """As EXIF numbers it; Pillow's own function that turns would write the EXIF anew as well."""
    readable = picture.info and len(picture.info.get("exif", b"")) <= EXIF
    return picture.getexif().get(ORIENTATION) if readable else None


def _flattened(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        samples = np.asarray(picture, np.float32)
        levels = (samples / 257).round().clip(0, 255).astype(np.uint8)
        if "transparency" in picture.info:
            levels[samples == picture.info["transparency"]] = 255
        return Image.fromarray(levels)
    if not picture.has_transparency_data:
        return picture
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
