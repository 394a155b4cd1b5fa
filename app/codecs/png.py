"""Plain PNG files: 8 bits of grey or colour, one IDAT chunk and no metadata (W3C, PNG third edition).

They are written here, and read without a search for chunks; `app.codecs.png_reader` reads all other PNG files.
"""

import struct
import zlib
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from PIL import _imaging

from app.codecs.png_reader import CHUNK, HEADER, MAX_UNCHECKED_BYTES, SIGNATURE, UNDECODED, unpacks_to

_MODES = {1: "L", 3: "RGB"}
_COLOUR_TYPES = {1: 0, 3: 2}
_CHECKSUM = struct.Struct(">I")
_IDAT_CHECKSUM = zlib.crc32(b"IDAT")
_LEVEL = 1
"""The fastest level of zlib. Rows are not filtered: filtering takes most of the time and saves little."""


def write_png(pixels: np.ndarray) -> bytes:
    """Write one image, uint8 [C, H, W] with C of 1 or 3."""
    return _file(pixels.shape, zlib.compress(_rows(pixels).data, _LEVEL))


def write_png_bands(shape: tuple[int, ...], bands: Iterable[np.ndarray]) -> bytes:
    """Write one image of `shape` from its `bands` [C, h, W], top to bottom, which are not all in memory at once."""
    compressor = zlib.compressobj(_LEVEL)
    data = [compressor.compress(_rows(band).data) for band in bands]
    return _file(shape, *data, compressor.flush())


def read_png(content: bytes, shape: tuple[int, ...]) -> np.ndarray | None:
    """Read a plain file of that shape, uint8 [C, H, W]; None for any other file and for a damaged one."""
    head = _head(shape)
    start, end = len(head) + CHUNK.size, -_CHECKSUM.size - len(_END)
    data = content[start:end]
    if len(content) > MAX_UNCHECKED_BYTES or not (content.startswith(head) and content.endswith(_END)):
        return None
    checksum = zlib.crc32(data, _IDAT_CHECKSUM)
    if content[len(head) : start] != CHUNK.pack(len(data), b"IDAT") or content[end : -len(_END)] != _CHECKSUM.pack(
        checksum
    ):
        return None
    channels, height, width = shape
    unpacked = _unpacked(data, _MODES[channels], (width, height))
    if unpacked is None:  # the complete reader finds the damage again, and describes it
        return None
    pixels = np.frombuffer(bytearray(unpacked), np.uint8)  # faster than by the interface of arrays
    if pixels.item(-channels) == UNDECODED and not unpacks_to(data, height * (1 + width * channels)):
        return None
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def _unpacked(data: bytes, mode: str, size: tuple[int, int]) -> bytes | None:
    """Decompress rows and undo their filters; None for damaged data. Pixels without data are `UNDECODED`.

    This calls Pillow's decoder and encoder in C as `Image.frombytes` and `Image.tobytes` do. The checks in these two
    functions take longer than the decoding of a small file.
    """
    extent = (0, 0, *size)
    image = _imaging.fill(mode, size, UNDECODED)
    decoder = _imaging.zip_decoder(mode, mode, 0)
    decoder.setimage(image, extent)
    status, error = decoder.decode(data)
    if status >= 0 or error:
        return None
    encoder = _imaging.raw_encoder(mode, mode)
    encoder.setimage(image, extent)
    _, _, pixels = encoder.encode(len(mode) * size[0] * size[1])
    unpacked: bytes = pixels
    return unpacked


def _rows(pixels: np.ndarray) -> np.ndarray:
    channels, height, width = pixels.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # the first byte of each row is its filter: none
    rows[:, 1:] = pixels.transpose(1, 2, 0).reshape(height, -1)
    return rows


def _file(shape: tuple[int, ...], *data: bytes) -> bytes:
    """Join a file from pieces of image data, without a second copy of them."""
    size, checksum = 0, _IDAT_CHECKSUM
    for piece in data:
        size, checksum = size + len(piece), zlib.crc32(piece, checksum)
    return b"".join((_head(shape), CHUNK.pack(size, b"IDAT"), *data, _CHECKSUM.pack(checksum), _END))


@lru_cache(maxsize=64)
def _head(shape: tuple[int, ...]) -> bytes:
    channels, height, width = shape
    return SIGNATURE + _chunk(b"IHDR", HEADER.pack(width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return CHUNK.pack(len(data), kind) + data + _CHECKSUM.pack(zlib.crc32(data, zlib.crc32(kind)))


_END = _chunk(b"IEND", b"")
