"""Plain PNG files: 8 bits of grey or of colour, in one piece, and nothing besides (W3C, PNG third edition).

They are written here, and read without a look at every chunk; `app.codecs.png_reader` reads all others.
"""

import struct
import zlib
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from PIL import Image

from app.codecs.png_reader import CHUNK, DENSE, HEADER, SIGNATURE, UNSET, holds

_MODES = {1: "L", 3: "RGB"}
_COLOUR_TYPES = {1: 0, 3: 2}
_LEVEL = 1
"""zlib's quickest. Rows are not filtered: that takes most of the time, and what is blurred or drawn gets no smaller."""


def write_png(pixels: np.ndarray) -> bytes:
    """One image, uint8 [C, H, W] with C of 1 or 3, as a file."""
    return _file(pixels.shape, zlib.compress(_rows(pixels).data, _LEVEL))


def write_png_bands(shape: tuple[int, ...], bands: Iterable[np.ndarray]) -> bytes:
    """One image of `shape` as a file, of its `bands` [C, h, W] from top to bottom, which are not in memory together."""
    compressor = zlib.compressobj(_LEVEL)
    data = [compressor.compress(_rows(band).data) for band in bands]
    return _file(shape, *data, compressor.flush())


def read_png(content: bytes, shape: tuple[int, ...]) -> np.ndarray | None:
    """The image in a plain file of that shape, uint8 [C, H, W]; None for any other file, and for a broken one."""
    start = len(_head(shape)) + 8
    if len(content) > DENSE:
        return None
    if not content.startswith(_head(shape)) or content != _file(shape, data := content[start : -4 - len(_END)]):
        return None
    channels, height, width = shape
    mode = _MODES[channels]
    image = Image.new(mode, (width, height), UNSET)
    try:
        image.frombytes(data, "zip", mode, 0)
    except ValueError:  # what is wrong is found again as the whole file is read
        return None
    pixels = np.array(image)
    if pixels.item(-channels) == UNSET and not holds(data, height * (1 + width * channels)):
        return None
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def _rows(pixels: np.ndarray) -> np.ndarray:
    channels, height, width = pixels.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each begins with the number of its filter: none
    rows[:, 1:] = pixels.transpose(1, 2, 0).reshape(height, -1)
    return rows


def _file(shape: tuple[int, ...], *data: bytes) -> bytes:
    """The file whose image data are these pieces, of which no second copy is made."""
    size, checksum = 0, zlib.crc32(b"IDAT")
    for piece in data:
        size, checksum = size + len(piece), zlib.crc32(piece, checksum)
    return b"".join((_head(shape), struct.pack(">I4s", size, b"IDAT"), *data, struct.pack(">I", checksum), _END))


@lru_cache(maxsize=64)
def _head(shape: tuple[int, ...]) -> bytes:
    channels, height, width = shape
    return SIGNATURE + _chunk(b"IHDR", HEADER.pack(width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return CHUNK.pack(len(data), kind) + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


_END = _chunk(b"IEND", b"")
