"""Metadata of image files: limits on its amount, and the orientation, the only value that changes pixels.

The orientation is in EXIF (CIPA DC-008, a TIFF 6.0 directory) or XMP (ISO 16684-1). A library that reads all metadata
can be kept busy for long, fills memory, and warns about every tag of a damaged directory.
"""

import re
import struct

MAX_PIECES = 10_000
"""Chunks, segments or sub-blocks before the pixels of one file. A PNG of 32 MB has 4,000 if its encoder writes 8 kB at
a time; a JPEG with ten megabytes of metadata has 160."""

MAX_METADATA_BYTES = 2**16
"""Bytes of EXIF or XMP that are read; a segment of a JPEG cannot have more."""

UPRIGHT = 1

_ORIENTATION, _SHORT, _LONG = 0x0112, 3, 4
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_TIFF = {b"II": "<", b"MM": ">"}


class Unreadable(ValueError):
    """An image file that is damaged or not supported; the message is a sentence for the client."""


class TooManyPieces(ValueError):
    """More chunks, segments, sub-blocks or scans than an image file needs; the message has the limit."""


def orientation(exif: bytes, xmp: bytes = b"") -> int:
    """Return the orientation in EXIF or else in XMP, usually 1 to 8; 1 if neither has one that can be read."""
    found = _exif_orientation(exif) if len(exif) <= MAX_METADATA_BYTES else None
    if found is None and len(xmp) <= MAX_METADATA_BYTES and (match := _XMP.search(xmp)):
        found = int(match[1])
    return UPRIGHT if found is None else found


def _exif_orientation(exif: bytes) -> int | None:
    tiff = exif.removeprefix(b"Exif\0\0").removeprefix(b"Exif\0\0")  # some writers prefix it twice
    order = _TIFF.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return None
    start = int.from_bytes(tiff[4:8], "little" if order == "<" else "big") + 2
    count = int.from_bytes(tiff[start - 2 : start], "little" if order == "<" else "big")
    entries = tiff[start : start + 12 * min(count, (len(tiff) - start) // 12)] if start < len(tiff) else b""
    for tag, kind, values, value in struct.iter_unpack(f"{order}HHI4s", entries):
        if tag == _ORIENTATION and values == 1 and kind in (_SHORT, _LONG):
            return int(struct.unpack(f"{order}HH" if kind == _SHORT else f"{order}I", value)[0])
    return None
