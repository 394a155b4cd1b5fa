"""The orientation of an image is read at a limited cost."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.codecs.metadata import MAX_METADATA_BYTES, UPRIGHT, orientation


def directory(order: str, *entries: tuple[int, int, int, int], prefix: bytes = b"Exif\0\0", offset: int = 8) -> bytes:
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", offset)
    tags = b"".join(
        struct.pack(
            f"{order}HHI" + ("HH" if kind == 3 else "I"), tag, kind, count, *([value, 0] if kind == 3 else [value])
        )
        for tag, kind, count, value in entries
    )
    return prefix + head.ljust(offset, b"\0") + struct.pack(f"{order}H", len(entries)) + tags + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0", b"Exif\0\0Exif\0\0"])
def test_the_orientation_is_found_in_either_byte_order_and_integer_type(order, kind, prefix):
    for offset in (8, 100):
        entries = [(0x100, 4, 1, 9), (0x112, kind, 1, 6), (0x8769, 4, 1, 26)]
        assert orientation(directory(order, *entries, prefix=prefix, offset=offset)) == 6


def test_xmp_is_read_if_exif_has_no_orientation():
    xmp = b'<rdf:Description tiff:Orientation="8"/>'
    assert orientation(directory("<", (0x112, 3, 1, 6)), xmp) == 6
    assert orientation(directory("<", (0x100, 3, 1, 6)), xmp) == 8
    assert orientation(b"", b"<tiff:Orientation>3</tiff:Orientation>") == 3
    assert orientation(b"") == UPRIGHT


@pytest.mark.parametrize(
    "exif",
    [
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0",
        b"II*\0\x08\0\0\0\xff\xff",
        b"XX*\0" + directory("<", (0x112, 3, 1, 6))[10:],
        directory("<", (0x112, 3, 2, 6)),
        directory("<", (0x112, 2, 1, 6)),
        directory("<", (0x112, 3, 1, 6)) + bytes(MAX_METADATA_BYTES),
    ],
)
def test_damaged_or_oversized_metadata_have_no_orientation(exif):
    assert orientation(exif, bytes(MAX_METADATA_BYTES) + b'tiff:Orientation="8"') == UPRIGHT


@given(st.binary(max_size=99), st.binary(max_size=99))
def test_any_bytes_have_an_orientation(exif, xmp):
    for head in (b"", b"Exif\0\0II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"):
        assert orientation(head + exif, xmp) >= 0
