"""A small file that would keep a core busy for hours is told from every picture that somebody took."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from app.bombs import CHUNKS, SCANS, SEGMENTS, is_bomb
from app.errors import TooLarge
from app.images import open_image

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def file(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(NOISE).save(stream, kind, **options)
    return stream.getvalue()


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan, and its table, comes so often besides."""
    whole = file("JPEG", progressive=True)
    scan = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[whole.rindex(b"\xff\xc4", 0, scan) : -2] * count + whole[-2:]


def with_pieces(kind: str, count: int) -> bytes:
    whole = file(kind)
    chunk = struct.pack(">I4sI", 0, b"aaAa", zlib.crc32(b"aaAa"))
    start, piece = {
        "JPEG": (2, b"\xff\xe1\x00\x09Exif\0\0x"),
        "PNG": (33, chunk),
        "GIF": (13 + 3 * 2 ** ((whole[10] & 7) + 1), b"\x21\xfe\x01x\0"),
    }[kind]
    return whole[:start] + piece * count + whole[start:]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(
    "more", [{}, {"subsampling": 0}, {"icc_profile": b"\xff\xda" * 100_000}, {"comment": "x" * 60_000}]
)
def test_a_jpeg_as_encoders_write_it_is_none(progressive, more):
    assert not is_bomb(file("JPEG", progressive=progressive, **more))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "BMP"])
def test_another_file_as_encoders_write_it_is_none(kind):
    assert not is_bomb(file(kind))


@pytest.mark.parametrize(("kind", "most"), [("JPEG", SEGMENTS), ("PNG", CHUNKS), ("GIF", CHUNKS)])
def test_many_pieces_are_too_large_and_fewer_are_read(kind, most):
    assert open_image(with_pieces(kind, most // 2), 0, 2**20).size == (64, 64)
    with pytest.raises(TooLarge, match=r"images\[3\]: more than"):
        open_image(with_pieces(kind, most + 1), 3, 2**20)


@pytest.mark.parametrize("filler", [b"", b"\xff\xff", b"garbage", b"\xff\x00", b"\xff\x01", b"\xff\xd8"])
def test_many_scans_are_too_large_whatever_stands_between_them(filler):
    bomb = with_scans(SCANS)
    scans = bomb.index(b"\xff\xda")
    for start in (2, bomb.rindex(b"\xff\xc4", 0, scans)):
        with pytest.raises(TooLarge):
            open_image(bomb[:start] + filler + bomb[start:], 0, 2**20)


def test_what_comes_after_the_picture_does_not_count():
    assert not is_bomb(file("JPEG") + b"\xff\xda\x00\x02" * 1000)
    assert not is_bomb(file("PNG") + bytes(12 * CHUNKS + 12))


@pytest.mark.parametrize("content", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xe1\xff", b"\x89PNG", b"GIF8"])
def test_what_ends_early_is_none(content):
    assert not is_bomb(content)
