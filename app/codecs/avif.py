"""Stripping of AVIF files (ISO/IEC 14496-12 and 23008-12, AV1 Image File Format 1.1): one still image.

A file of some hundred bytes can have thousands of hidden frames, or frames that are much larger than the image. All AV1
items are therefore read as far as the headers of their units (AV1 specification, 5.3 and 5.5): each must have one
frame, and its size counts. Boxes and items that do not determine pixels are renamed in place, since items have their
addresses in the file: the decoder ignores the tracks of animations, EXIF and XMP then.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from app.codecs.metadata import MAX_PIECES, TooManyPieces, Unreadable

MAX_TABLE_BYTES = 2**17
"""Bytes of the box `meta`, with profiles. Decoders look items up one by one in a list of all."""

_BRANDS = (b"avif", b"avis")
_KEPT_BOXES, _KEPT_ITEMS = (b"ftyp", b"meta", b"mdat"), (b"av01", b"grid")
_SEQUENCE, _FRAME_HEADER, _FRAME = 1, 3, 6
_MAX_BITS = 16
_DAMAGED = "the AVIF data is truncated or damaged"


class Still(NamedTuple):
    """A file with one image, and the pixels of all its frames and canvases."""

    content: bytes
    pixels: int


class Box(NamedTuple):
    """A box: its type, the place of its type, and start and end of its content."""

    kind: bytes
    at: int
    start: int
    end: int


class Item(NamedTuple):
    """An item: its number, its type, and the place of its type."""

    number: int
    kind: bytes
    at: int


def is_avif(content: bytes) -> bool:
    """Return whether the first bytes are those of an AVIF file."""
    size = int.from_bytes(content[:4]) if content[4:8] == b"ftyp" else 0
    brands = (content[at : at + 4] for at in (8, *range(16, min(size, 128), 4)))
    return any(brand in _BRANDS for brand in brands)


def strip_avif(content: bytes) -> Still:
    """Return the still image; raises `Unreadable` and `TooManyPieces` as `app.codecs.stripping.strip` does."""
    try:
        return _strip(content)
    except (struct.error, IndexError):
        raise Unreadable(_DAMAGED) from None


def _strip(content: bytes) -> Still:
    kept, tables = bytearray(content), []
    for box in _boxes(content, 0, len(content)):
        if box.kind == b"ftyp":
            kept[box.start : box.start + 4] = b"avif"
            kept[box.start + 8 : box.end] = content[box.start + 8 : box.end].replace(b"avis", b"avif")  # needs no track
        if box.kind not in _KEPT_BOXES:
            kept[box.at : box.at + 4] = b"free"
        if box.kind == b"meta":
            tables.append(box)
    if len(tables) != 1:
        raise Unreadable("expected an AVIF with a still image, got none")
    if tables[0].end - tables[0].start > MAX_TABLE_BYTES:
        raise TooManyPieces(f"more than {MAX_TABLE_BYTES} bytes of tables and profiles")
    pixels = 0
    contents = _Contents(content, tables[0])
    for item in contents.items:
        if item.kind not in _KEPT_ITEMS:
            kept[item.at : item.at + 4] = b"skip"
        else:
            data = contents.of(item.number)
            pixels += _grid_pixels(data) if item.kind == b"grid" else _frame_pixels(data)
    return Still(bytes(kept), pixels)


def _boxes(content: bytes, at: int, end: int) -> Iterator[Box]:
    """Yield the boxes of a part of the file, as far as they are complete."""
    for _ in range(MAX_PIECES):
        if at + 8 > end:
            return
        size, start = int.from_bytes(content[at : at + 4]), at + 8
        if size == 1:
            size, start = int.from_bytes(content[at + 8 : at + 16]), at + 16
        stop = end if size == 0 else at + size
        if stop < start or stop > end:
            raise Unreadable(_DAMAGED)
        yield Box(content[at + 4 : at + 8], at + 4, start, stop)
        at = stop
    raise TooManyPieces(f"more than {MAX_PIECES} boxes")


class _Contents:
    """The items of a file and their bytes, which the box `meta` has."""

    def __init__(self, content: bytes, meta: Box) -> None:
        self._content = content
        self.items: list[Item] = []
        self._extents: dict[int, list[tuple[int, int]]] = {}
        self._left = 2 * len(content)
        boxes = {box.kind: box for box in _boxes(content, meta.start + 4, meta.end)}
        self._data = boxes.get(b"idat", meta)
        if b"iinf" in boxes:
            self.items = list(self._read_items(boxes[b"iinf"]))
        if b"iloc" in boxes:
            self._read_places(boxes[b"iloc"])

    def of(self, number: int) -> bytes:
        """Return the bytes of an item; all items together have at most twice those of the file."""
        extents = self._extents.get(number, ())
        self._left -= sum(end - start for start, end in extents)
        if self._left < 0:
            raise TooManyPieces("more bytes of items than twice those of the file")
        return b"".join(self._content[start:end] for start, end in extents)

    def _read_items(self, table: Box) -> Iterator[Item]:
        first = table.start + (6 if self._content[table.start] == 0 else 8)
        for box in _boxes(self._content, first, table.end):
            version = self._content[box.start]
            width = {2: 2, 3: 4}.get(version, 0)
            if box.kind != b"infe" or not width:
                raise Unreadable(_DAMAGED)
            at = box.start + 4 + width + 2
            yield Item(int.from_bytes(self._content[box.start + 4 :][:width]), self._content[at : at + 4], at)

    def _read_places(self, table: Box) -> None:
        fields = _Fields(self._content, table)
        version = fields.read(1)
        fields.read(3)
        sizes = fields.read(2)
        offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
        for _ in range(fields.read(4 if version == 2 else 2)):
            number = fields.read(4 if version == 2 else 2)
            method = fields.read(2) & 15 if version else 0
            fields.read(2)
            base = fields.read(base_size) + (self._data.start if method == 1 else 0)
            limit = self._data.end if method == 1 else len(self._content)
            for _ in range(fields.read(2)):
                fields.read(index_size if version else 0)
                start = base + fields.read(offset_size)
                end = start + fields.read(length_size)
                if method > 1 or not start < end <= limit:
                    raise Unreadable(_DAMAGED)
                self._extents.setdefault(number, []).append((start, end))


class _Fields:
    """Big-endian numbers of a box, one after the other."""

    def __init__(self, content: bytes, box: Box) -> None:
        self._content, self._at, self._end = content, box.start, box.end

    def read(self, size: int) -> int:
        """Return a number of so many bytes; raises `Unreadable` at the end of the box."""
        at, self._at = self._at, self._at + size
        if self._at > self._end:
            raise Unreadable(_DAMAGED)
        return int.from_bytes(self._content[at : self._at])


def _grid_pixels(data: bytes) -> int:
    """Return the pixels of the canvas on which the tiles of a grid are put."""
    width, height = struct.unpack_from(">II" if data[1] & 1 else ">HH", data, 4)
    return int(width * height)


def _frame_pixels(data: bytes) -> int:
    """Return the most pixels that the frame of an AV1 item can have; raises `Unreadable` for more or fewer frames."""
    frames, pixels = 0, 0
    for kind, unit in _units(data):
        frames += kind in (_FRAME_HEADER, _FRAME)
        if kind == _SEQUENCE:
            pixels = max(pixels, _sequence_pixels(unit))
    if frames != 1 or not pixels:
        raise Unreadable(f"expected an AVIF with one frame in each image, got {frames}")
    return pixels


def _units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and first bytes of each unit, an OBU of the AV1 specification."""
    at = 0
    for _ in range(MAX_PIECES):
        if at >= len(data):
            return
        header = data[at]
        at += 2 if header & 4 else 1
        size = len(data) - at
        if header & 2:
            size, at = _leb128(data, at)
        yield header >> 3 & 15, data[at : at + min(size, 64)]
        at += size
    raise TooManyPieces(f"more than {MAX_PIECES} units in an image")


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(8):
        byte = data[at + index]
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, at + index + 1
    raise Unreadable(_DAMAGED)


def _sequence_pixels(unit: bytes) -> int:
    """Return the most pixels of a frame by a sequence header.

    A frame of a reduced header has the size in the header, another one may be as large as its bits can say.
    """
    bits = _Bits(unit)
    bits.read(4)  # profile, still picture
    if not (is_reduced := bits.read(1)):
        if bits.read(1):
            raise Unreadable("expected an AVIF with a still image, got one with times of frames")
        has_delay = bits.read(1)
        for _ in range(bits.read(5) + 1):
            bits.read(12)
            level = bits.read(5)
            bits.read(1 if level > 7 else 0)
            bits.read(4 if has_delay and bits.read(1) else 0)
    else:
        bits.read(5)
    widths, heights = bits.read(4) + 1, bits.read(4) + 1
    width, height = bits.read(widths) + 1, bits.read(heights) + 1
    return width * height if is_reduced else 1 << widths + heights


class _Bits:
    """Bits of a sequence header, the first one first."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data), 8 * len(data)

    def read(self, count: int) -> int:
        """Return a number of so many bits; raises `Unreadable` at the end."""
        self._left -= count
        if self._left < 0:
            raise Unreadable(_DAMAGED)
        return self._value >> self._left & (1 << count) - 1
