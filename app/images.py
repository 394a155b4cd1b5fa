"""Where bytes become numbers, and back; with `app.png` the only module of the service that knows Pillow.

Pixels are uint8 [N, C, H, W]. A picture of any size and mode is fitted to the model: EXIF orientation is honoured,
alpha is flattened onto white, 16-bit grey is scaled to 8.
"""

import io
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from app.bombs import CHUNKS, SCANS, SEGMENTS, is_bomb
from app.errors import TooLarge, Unusable
from app.png import read_png
from model.data import upright

RUNS = (1, 2)
"""Compressions of a BMP by run lengths, which Pillow unpacks a byte at a time: a kilobyte takes two seconds."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
KINDS = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
Fit = Literal["resize", "pad", "crop", "exact"]

TEXT = 2**23
"""Characters of text in a PNG, unpacked. Nothing here reads them, and Pillow unpacks them all the same."""


class Picture(NamedTuple):
    """A picture file of which only the header has been read."""

    content: bytes
    width: int
    height: int


def rely_on_own_limits() -> None:
    """Let Pillow open pictures of any size, which `open_image` refuses by the settings, and unpack less text."""
    Image.MAX_IMAGE_PIXELS = None
    PngImagePlugin.MAX_TEXT_MEMORY = TEXT


def open_image(content: bytes, index: int, max_pixels: int) -> Image.Image:
    """A picture of which only the header has been read.

    Raises `Unusable` for what is no picture and `TooLarge` for one of more than `max_pixels`, or of more scans,
    segments or chunks than a picture needs, before it is decoded.
    """
    if is_bomb(content):
        most = f"{SCANS} scans and {SEGMENTS} segments of a JPEG, or {CHUNKS} chunks of another file"
        raise TooLarge(f"images[{index}]: more than the {most} allowed")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Exception:  # noqa: BLE001  # Pillow's parsers raise whatever a broken header leads them to
        raise Unusable(f"images[{index}]: expected {KINDS}, got {len(content)} bytes that are none") from None
    if image.format == "BMP" and image.info["compression"] in RUNS:
        raise Unusable(f"images[{index}]: expected a BMP without run lengths, got one with them")
    if image.width * image.height > max_pixels:
        raise TooLarge(f"images[{index}]: {image.width} x {image.height} is more than the {max_pixels} pixels allowed")
    return image


def open_images(contents: Sequence[bytes], shape: tuple[int, ...], max_pixels: int) -> list[Picture | np.ndarray]:
    """Each as `open_image` does, and raises; a plain PNG of the model's shape is as quickly read at once.

    None stays open: what Pillow keeps of a small file may be large.
    """
    quick = shape[1] * shape[2] <= max_pixels

    def opened(content: bytes, index: int) -> Picture | np.ndarray:
        if quick and (pixels := read_png(content, shape)) is not None:
            return pixels
        with open_image(content, index, max_pixels) as image:
            return Picture(content, image.width, image.height)

    return [opened(content, index) for index, content in enumerate(contents)]


def load_images(images: Sequence[Picture | Image.Image | np.ndarray], shape: Sequence[int], fit: Fit) -> np.ndarray:
    """Decoded and fitted to the model's [C, H, W], each let go before the next; `Unusable` names a damaged picture."""
    loaded = [_load(image, index, shape, fit) for index, image in enumerate(images)]
    return np.stack(loaded) if len(loaded) > 1 else loaded[0][None]


def fit_array(array: np.ndarray, shape: Sequence[int], fit: Fit) -> np.ndarray:
    """A uint8 array [N, H, W] or [N, H, W, C] as pixels of the model's [C, H, W]."""
    images = array[..., None] if array.ndim == 3 else array
    channels, height, width = shape
    if images.shape[1:] == (height, width, channels):
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    pictures = [Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in images]
    return load_images(pictures, shape, fit)


def write_npy(array: np.ndarray) -> bytes:
    """The array as an .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def grid(pixels: np.ndarray, columns: int | None) -> np.ndarray:
    """Images [N, C, H, W] side by side without padding, row by row, [C, rows * H, columns * W]; the rest is black."""
    count, channels, height, width = pixels.shape
    across = min(columns or math.ceil(math.sqrt(count)), count)
    down = math.ceil(count / across)
    cells = np.zeros((down * across, channels, height, width), np.uint8)
    cells[:count] = pixels
    table = cells.reshape(down, across, channels, height, width).transpose(2, 0, 3, 1, 4)
    return table.reshape(channels, down * height, across * width)


def _load(picture: Picture | Image.Image | np.ndarray, index: int, shape: Sequence[int], fit: Fit) -> np.ndarray:
    if isinstance(picture, np.ndarray):
        return picture
    image = Image.open(io.BytesIO(picture.content), formats=FORMATS) if isinstance(picture, Picture) else picture
    channels, height, width = shape
    try:
        flat = upright(image, channels)
    except Exception:  # noqa: BLE001  # as in `open_image`
        raise Unusable(f"images[{index}]: the {image.format} data is truncated or damaged") from None
    if fit == "exact" and flat.size != (width, height):
        raise Unusable(f"images[{index}]: expected {width} x {height} pixels, got {flat.width} x {flat.height}")
    fitted = np.array(_fitted(flat, (width, height), fit))
    image.close()
    return fitted[None] if channels == 1 else fitted.transpose(2, 0, 1)


def _fitted(image: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    if image.size == size:
        return image
    if fit == "pad":
        return ImageOps.pad(image, size, Image.Resampling.BILINEAR)
    if fit == "crop":
        return ImageOps.fit(image, size, Image.Resampling.BILINEAR)
    return image.resize(size, Image.Resampling.BILINEAR)
