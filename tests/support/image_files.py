"""Picture files as callers send them, sound and broken."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def stored(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def header_of_png(width: int, height: int) -> bytes:
    """A PNG that announces a size, and holds no pixel."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + b"\0\0\0\0IDAT"


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I4s", len(data), kind) + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def png(
    width: int,
    height: int,
    depth: int,
    colour: int,
    rows: bytes,
    interlaced: bool = False,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """A PNG of these rows, in three pieces, with any chunks before and after them."""
    data = zlib.compress(rows)
    pieces = [data[: len(data) // 2], b"", data[len(data) // 2 :]]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    image = b"".join(chunk(b"IDAT", piece) for piece in pieces)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + image + after + chunk(b"IEND")


def drawn_rows(width: int, height: int, bits: int, interlaced: bool, values: int = 256) -> bytes:
    """Rows by chance, each by a filter that is drawn as well, of so many bits a pixel."""
    draw, rows = np.random.default_rng(width + height + bits), b""
    passes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in PASSES]
    for across, down in passes if interlaced else [(width, height)]:
        for _ in range(down if across > 0 else 0):
            rows += bytes([draw.integers(5), *draw.integers(0, values, (across * bits + 7) // 8)])
    return rows
