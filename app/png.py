"""Plain PNG files: 8 bits of grey or of colour, in one piece, and nothing besides (W3C, PNG third edition).

Pillow, which reads and writes all others, takes several times as long for a small one. Its decoder reads these as well.
"""

import struct
import zlib
from functools import lru_cache

import numpy as np
from PIL import Image

_MODES = {1: "L", 3: "RGB"}
_COLOUR_TYPES = {1: 0, 3: 2}
_LEVEL = 1
"""zlib's quickest. Rows are not filtered: that takes most of the time, and what is blurred or drawn gets no smaller."""


def write_png(pixels: np.ndarray) -> bytes:
    """One image, uint8 [C, H, W] with C of 1 or 3, as a file."""
    channels, height, width = pixels.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each begins with the number of its filter: none
    rows[:, 1:] = pixels.transpose(1, 2, 0).reshape(height, -1)
    return _file(pixels.shape, zlib.compress(rows.data, _LEVEL))


def read_png(content: bytes, shape: tuple[int, ...]) -> np.ndarray | None:
    """The image in a plain file of that shape, uint8 [C, H, W]; None for any other file, and for a broken one."""
    start = len(_head(shape)) + 8
    if not content.startswith(_head(shape)) or content != _file(shape, data := content[start : -4 - len(_END)]):
        return None
    channels, height, width = shape
    mode = _MODES[channels]
    try:
        image = Image.frombytes(mode, (width, height), data, "zip", mode, 0)
    except Exception:  # noqa: BLE001  # what Pillow raises as it reads the whole file is for whoever asked
        return None
    return np.array(image).reshape(height, width, channels).transpose(2, 0, 1)


def _file(shape: tuple[int, ...], data: bytes) -> bytes:
    return _head(shape) + _chunk(b"IDAT", data) + _END


@lru_cache(maxsize=64)
def _head(shape: tuple[int, ...]) -> bytes:
    channels, height, width = shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I4s", len(data), kind) + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


_END = _chunk(b"IEND", b"")
