"""Stripping of TIFF files (TIFF 6.0): the first page, with the tags that determine its pixels.

The directory of the first page is checked and written anew behind the file, so that libtiff sees no other page, tag,
profile or thumbnail, and neither more strips nor more compressed bytes than the image needs.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from app.codecs.metadata import MAX_PIECES, UPRIGHT, TooManyPieces, Unreadable

SIGNATURES = (b"II*\0", b"MM\0*")

_MAX_TAGS = 1024
"""Tags of one directory; cameras write some 50."""

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIPS, ORIENTATION, SAMPLES, STRIP_ROWS, STRIP_BYTES, PLANAR = 273, 274, 277, 278, 279, 284
PREDICTOR, PALETTE, TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES, EXTRA, FORMAT = 317, 320, 322, 323, 324, 325, 338, 339

_MOST_VALUES = {
    **dict.fromkeys((WIDTH, HEIGHT, COMPRESSION, PHOTOMETRIC, FILL_ORDER, ORIENTATION, SAMPLES, STRIP_ROWS, PLANAR), 1),
    **dict.fromkeys((PREDICTOR, TILE_WIDTH, TILE_HEIGHT), 1),
    **dict.fromkeys((BITS, EXTRA, FORMAT), 4),
    **dict.fromkeys((STRIPS, STRIP_BYTES, TILES, TILE_BYTES), MAX_PIECES),
    PALETTE: 3 * 256,
}
"""The tags that are read, and the most values that each may have."""

_TYPES = {1: ("B", 1), 3: ("H", 2), 4: ("I", 4)}
"""Types of whole numbers: their format and size."""

_COMPRESSIONS = (1, 5, 8, 32_946, 32_773)  # none, LZW, Deflate (twice), PackBits
_OTHER_COMPRESSIONS = {
    **{2: "fax (modified Huffman)", 3: "fax (group 3)", 4: "fax (group 4)", 6: "JPEG (the old form)", 7: "JPEG"},
    **{32_809: "ThunderScan", 34_676: "SGI LogLuv", 34_677: "SGI LogLuv", 34_712: "JPEG 2000", 34_887: "LERC"},
    **{34_925: "LZMA", 50_000: "Zstandard", 50_001: "WebP", 50_002: "JPEG XL"},
}
"""Names of compressions that are not read, for errors."""

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _INDEXED, _CMYK = 0, 1, 2, 3, 5
_DEPTHS = {
    (_WHITE_IS_ZERO, 1): (1, 2, 4, 8),
    (_BLACK_IS_ZERO, 1): (1, 2, 4, 8, 16),
    (_BLACK_IS_ZERO, 2): (8,),
    (_RGB, 3): (8, 16),
    (_RGB, 4): (8, 16),
    (_INDEXED, 1): (1, 2, 4, 8),
    (_CMYK, 4): (8,),
}
"""Bits of a sample, by the photometric interpretation and the number of samples."""

Tags = Mapping[int, tuple[int, ...]]


class Page(NamedTuple):
    """A file with one page, its orientation as EXIF numbers it, and the pixels of all its strips or tiles."""

    content: bytes
    orientation: int
    pixels: int


def strip_tiff(content: bytes) -> Page:
    """Return the first page; raises `Unreadable` and `TooManyPieces` as `app.codecs.stripping.strip` does."""
    order = "<" if content.startswith(b"II") else ">"
    tags = _read_tags(content, order)
    _require_supported(tags)
    pixels = _require_consistent(tags, len(content))
    orientation = _first(tags, ORIENTATION, UPRIGHT)
    kept = {tag: values for tag, values in tags.items() if tag not in (ORIENTATION, FILL_ORDER, FORMAT)}
    return Page(_with_directory(content, order, kept), orientation, pixels)


def _read_tags(content: bytes, order: str) -> dict[int, tuple[int, ...]]:
    try:
        (start,) = struct.unpack_from(f"{order}I", content, 4)
        (count,) = struct.unpack_from(f"{order}H", content, start)
        if count > _MAX_TAGS:
            raise TooManyPieces(f"more than {_MAX_TAGS} tags in a TIFF directory")
        entries = struct.iter_unpack(f"{order}HHI4s", content[start + 2 : start + 2 + 12 * count])
        known = [entry for entry in entries if entry[0] in _MOST_VALUES]
        if len({tag for tag, *_ in known}) < len(known):  # else many tags could share many values
            raise Unreadable("a tag is repeated in the directory of the TIFF")
        return {tag: _values(content, order, *entry) for tag, *entry in known}
    except struct.error:
        raise Unreadable("the directory of the TIFF is damaged") from None


def _values(content: bytes, order: str, kind: int, count: int, value: bytes) -> tuple[int, ...]:
    if kind not in _TYPES or not count:
        raise Unreadable("the directory of the TIFF is damaged")
    if count > max(_MOST_VALUES.values()):
        raise TooManyPieces(f"more than {MAX_PIECES} strips or tiles")
    form, size = _TYPES[kind]
    if count * size <= 4:
        return struct.unpack_from(f"{order}{count}{form}", value)
    (offset,) = struct.unpack(f"{order}I", value)
    return struct.unpack_from(f"{order}{count}{form}", content, offset)


def _require_supported(tags: Tags) -> None:
    if any(len(values) > _MOST_VALUES[tag] for tag, values in tags.items()):
        raise Unreadable("the directory of the TIFF is damaged")
    photometric, samples = _first(tags, PHOTOMETRIC, _WHITE_IS_ZERO), _first(tags, SAMPLES, 1)
    bits, compression = tags.get(BITS, (1,)), _first(tags, COMPRESSION, 1)
    depths = _DEPTHS.get((photometric, samples), ())
    is_plain = {*tags.get(FORMAT, (1,))} == {1} and _first(tags, FILL_ORDER, 1) == 1
    is_premultiplied_grey = samples == 2 and tags.get(EXTRA) == (1,)
    if len({*bits}) != 1 or bits[0] not in depths or not is_plain or is_premultiplied_grey:
        raise Unreadable(
            "expected a TIFF of grey, RGB, palette or CMYK with 8 or 16 bits, unsigned, got photometric interpretation "
            f"{photometric} with {samples} samples of {bits[0]} bits"
        )
    if compression not in _COMPRESSIONS:
        got = _OTHER_COMPRESSIONS.get(compression, f"the compression {compression}")
        raise Unreadable(f"expected a TIFF without compression or with LZW, Deflate or PackBits, got {got}")
    if (predictor := _first(tags, PREDICTOR, 1)) not in (1, 2):
        raise Unreadable(f"expected a TIFF without predictor or with differences, got the predictor {predictor}")


def _require_consistent(tags: Tags, size: int) -> int:
    """Check strips or tiles against the size of the image and of the file; returns their pixels."""
    width, height = _first(tags, WIDTH, 0), _first(tags, HEIGHT, 0)
    offsets, lengths = tags.get(TILES, tags.get(STRIPS, ())), tags.get(TILE_BYTES, tags.get(STRIP_BYTES, ()))
    is_tiled = TILES in tags
    across = _first(tags, TILE_WIDTH, 0) if is_tiled else width
    down = _first(tags, TILE_HEIGHT, 0) if is_tiled else min(height, _first(tags, STRIP_ROWS, height))
    if not (width and height and across and down) or (is_tiled and STRIPS in tags):
        raise Unreadable("the directory of the TIFF is damaged")
    columns, rows = -(-width // across), -(-height // down)
    planes = _first(tags, SAMPLES, 1) if _first(tags, PLANAR, 1) == 2 else 1
    if columns * rows * planes > MAX_PIECES:
        raise TooManyPieces(f"more than {MAX_PIECES} strips or tiles")
    pixels = columns * rows * across * down if is_tiled else width * height
    bits = pixels * sum(tags.get(BITS, (1,))) if _first(tags, COMPRESSION, 1) == 1 else 0
    complete = len(offsets) == len(lengths) == columns * rows * planes and bits <= 8 * sum(lengths) <= 8 * size
    if not complete:
        raise Unreadable("the strips or tiles of the TIFF do not fit its size")
    return pixels


def _first(tags: Tags, tag: int, default: int) -> int:
    return tags[tag][0] if tag in tags else default


def _with_directory(content: bytes, order: str, tags: Tags) -> bytes:
    """Return the file with a directory of these tags behind it, which is the only one."""
    values = list(_packed(order, tags))
    start = len(content) + len(content) % 2
    at, entries, data = start + 6 + 12 * len(values), [], []
    for tag, kind, count, packed in values:
        entries.append(struct.pack(f"{order}HHI", tag, kind, count))
        entries.append(packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(f"{order}I", at))
        if len(packed) > 4:
            data.append(packed)
            at += len(packed)
    head, padding = content[:4] + struct.pack(f"{order}I", start), bytes(len(content) % 2)
    number = struct.pack(f"{order}H", len(values))
    return b"".join([head, memoryview(content)[8:], padding, number, *entries, bytes(4), *data])


def _packed(order: str, tags: Tags) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield number, type, count and bytes of each tag in order, as SHORT if all values are, otherwise as LONG."""
    for tag, values in sorted(tags.items()):
        kind = 3 if max(values) < 2**16 else 4
        yield tag, kind, len(values), struct.pack(f"{order}{len(values)}{_TYPES[kind][0]}", *values)
