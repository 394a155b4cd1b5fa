"""PNG files of any kind (W3C, PNG third edition), read around Pillow's decoder of their compressed rows.

Only the chunks that decide pixels are looked at: Pillow's own reader unpacks every profile and text of a file before
it decodes, and takes several times as long for a small one.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from app.codecs.metadata import LONGEST, PIECES, UPRIGHT, TooManyPieces, Unreadable, orientation

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_GREY, _COLOUR, _PALETTE, _GREY_ALPHA, _COLOUR_ALPHA = 0, 2, 3, 4, 6
_SAMPLES = {_GREY: 1, _COLOUR: 3, _PALETTE: 1, _GREY_ALPHA: 2, _COLOUR_ALPHA: 4}
_DECODED = {  # bits per sample and colour type: Pillow's mode, and the layout that its decoder unpacks
    (1, _GREY): ("1", "1"),
    (2, _GREY): ("L", "L;2"),
    (4, _GREY): ("L", "L;4"),
    (8, _GREY): ("L", "L"),
    (16, _GREY): ("I;16", "I;16B"),
    (8, _COLOUR): ("RGB", "RGB"),
    (16, _COLOUR): ("RGB", "RGB;16B"),
    (1, _PALETTE): ("P", "P;1"),
    (2, _PALETTE): ("P", "P;2"),
    (4, _PALETTE): ("P", "P;4"),
    (8, _PALETTE): ("P", "P"),
    (8, _GREY_ALPHA): ("LA", "LA"),
    (16, _GREY_ALPHA): ("RGBA", "LA;16B"),
    (8, _COLOUR_ALPHA): ("RGBA", "RGBA"),
    (16, _COLOUR_ALPHA): ("RGBA", "RGBA;16B"),
}
_LEVELS = {1: 255, 2: 85, 4: 17, 8: 1, 16: 1}
"""What a sample of so many bits is multiplied by as it is decoded."""

_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Adam7 interlacing: the first column and row of each pass, and the steps between them."""

_STEP = 2**14
"""Bytes that are unpacked at once to count what they hold: at most a thousand times as many."""

DENSE = 2**23
"""Bytes of compressed data up to which any are decoded: blocks of 11 bytes that hold nothing take a second for them."""

UNSET = 1
"""What pixels are before they are decoded: a value that the last one of few images has."""

CHUNK = struct.Struct(">I4s")
HEADER = struct.Struct(">IIBBBBB")
_LONGEST_TEXT = 3 * LONGEST
"""Bytes of a text that is looked at: EXIF takes two hexadecimal digits a byte, and a line end after 36 bytes."""

UNPACKED_TEXT = 2**14
"""Bytes of a compressed text that are unpacked. The orientation is among the first tags of EXIF and of XMP."""

_DECISIVE = (b"IHDR", b"PLTE", b"tRNS")
_RAW_EXIF, _XMP = b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"
_ORIENTED = {b"eXIf": b"", b"tEXt": _RAW_EXIF, b"zTXt": _RAW_EXIF, b"iTXt": _XMP}
"""Chunks that may say how the image is to be turned, and what their data begin with then."""


class Png(NamedTuple):
    """A PNG file of which nothing has been decoded; `palette` and `transparency` are PLTE and tRNS, or empty."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: int
    palette: bytes
    transparency: bytes
    data: bytes
    metadata: Mapping[bytes, bytes]

    @property
    def format(self) -> str:
        """As Pillow names it."""
        return "PNG"

    @property
    def orientation(self) -> int:
        """The orientation in EXIF or XMP, which are unpacked for it."""
        return _orientation(self.metadata) if self.metadata else UPRIGHT

    @property
    def cost(self) -> int:
        """Bytes or pixels that decoding unpacks: the pixels, and the beginning of each compressed text."""
        return self.width * self.height + UNPACKED_TEXT * sum(map(_is_compressed, self.metadata.items()))

    def image(self) -> Image.Image:
        """The image as Pillow's reader gives it, except that transparent samples are compared with all their bits.

        Raises `ValueError` for data that are damaged, or that end before the last row.
        """
        mode, layout = _DECODED[self.depth, self.colour]
        image = self._decoded(mode, layout)
        if self.colour == _PALETTE:
            image.putpalette(self.palette, "RGB")
        if not self.transparency or self.colour in (_GREY_ALPHA, _COLOUR_ALPHA):
            return image
        if self.colour == _PALETTE:
            image.info["transparency"] = self.transparency
        elif self.colour == _GREY:
            sample = int.from_bytes(self.transparency[:2]) & 2**self.depth - 1
            image.info["transparency"] = sample * _LEVELS[self.depth]
        elif self.depth == 8:
            image.info["transparency"] = tuple(self.transparency[1:6:2])
        else:
            self._clear(image, self.transparency)
        return image

    def _clear(self, image: Image.Image, colour: bytes) -> None:
        """Make one colour of 16 bits a sample transparent; the image holds the upper 8 of them."""
        lower = self._decoded("RGB", "RGB;16L")  # of the two bytes of each sample the other one
        opaque = np.zeros((self.height, self.width), bool)
        for at, bands in enumerate(zip(image.split(), lower.split(), strict=True)):
            for band, value in zip(bands, colour[2 * at : 2 * at + 2], strict=True):
                opaque |= np.asarray(band) != value
        image.putalpha(Image.fromarray(opaque))

    def _decoded(self, mode: str, layout: str) -> Image.Image:
        bits = self.depth * _SAMPLES[self.colour]
        return _decode_rows(mode, layout, (self.width, self.height), self.data, self.interlaced, bits)


def open_png(content: bytes) -> Png:
    """The parts of a file that decide its pixels, found in one pass.

    Raises `Unreadable` for a file without a usable header, palette or data, `TooManyPieces` for too many chunks.
    """
    found: dict[bytes, bytes] = {}
    data = []
    for kind, start, end in _chunks(content):
        if kind == b"IDAT":
            data.append(content[start:end])
        elif kind in _DECISIVE and not data:
            found[kind] = _checked(content, start, end)
        elif kind in _ORIENTED and content.startswith(_ORIENTED[kind], start) and end - start <= _LONGEST_TEXT:
            found[kind] = content[start:end]
    header, palette, transparency = (found.get(kind, b"") for kind in _DECISIVE)
    width, height, depth, colour, compression, filtering, interlaced = HEADER.unpack(header.ljust(HEADER.size, b"\0"))
    usable = width and height and (depth, colour) in _DECODED and not compression and not filtering and interlaced < 2
    if colour == _PALETTE:
        usable = usable and 0 < len(palette) <= 768 and len(palette) % 3 == 0
    elif b"tRNS" in found:
        usable = usable and len(transparency) >= {_GREY: 2, _COLOUR: 6}.get(colour, 0)
    if not usable or len(header) != HEADER.size:
        raise Unreadable("the header of the PNG is damaged")
    metadata = {kind: chunk for kind, chunk in found.items() if kind in _ORIENTED}
    return Png(width, height, depth, colour, interlaced, palette, transparency[:256], b"".join(data), metadata)


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The type of each chunk and where its data start and end, up to IEND or the end of the file."""
    at, count = len(SIGNATURE), 0
    while at + CHUNK.size <= len(content):
        if (count := count + 1) > PIECES:
            raise TooManyPieces(f"more than {PIECES} chunks")
        length, kind = CHUNK.unpack_from(content, at)
        if kind == b"IEND":
            return
        yield kind, at + 8, at + 8 + length
        at += 12 + length


def _checked(content: bytes, start: int, end: int) -> bytes:
    if zlib.crc32(content[start - 4 : end]) != int.from_bytes(content[end : end + 4]):
        raise Unreadable("the header of the PNG is damaged")
    return content[start:end]


def _is_compressed(chunk: tuple[bytes, bytes]) -> bool:
    kind, content = chunk
    return kind == b"zTXt" or (kind == b"iTXt" and content.startswith(b"\1", len(_XMP)))


def _orientation(metadata: Mapping[bytes, bytes]) -> int:
    packed = _unpacked_text(metadata.get(b"zTXt", b"").removeprefix(_RAW_EXIF)[1:])  # after the compression method
    raw = packed or metadata.get(b"tEXt", b"").removeprefix(_RAW_EXIF)
    text = metadata.get(b"iTXt", b"").removeprefix(_XMP)
    xmp = text[2:].split(b"\0", 2)[-1]  # after the language, and the keyword in it
    return orientation(metadata.get(b"eXIf") or _bytes_of_hex(raw), _unpacked_text(xmp) if text[:1] == b"\1" else xmp)


def _unpacked_text(text: bytes) -> bytes:
    """The first `UNPACKED_TEXT` bytes of a compressed text; nothing where they are damaged."""
    try:
        return zlib.decompressobj().decompress(text, UNPACKED_TEXT)
    except zlib.error:
        return b""


def _bytes_of_hex(text: bytes) -> bytes:
    """What ImageMagick writes as hexadecimal digits after three lines: empty, the kind, the length."""
    digits = b"".join(text.split(b"\n")[3:])
    try:
        return bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii"))
    except ValueError:
        return b""


def _decode_rows(mode: str, layout: str, size: tuple[int, int], data: bytes, interlaced: int, bits: int) -> Image.Image:
    """The rows in `data`; raises `ValueError` where they are damaged or too few.

    Pillow leaves rows as they were that a valid stream does not reach. They are looked for, by unpacking the data once
    more, where the last pixel has the value that all had before.
    """
    if len(data) > DENSE:
        _require_dense(data, _unpacked(size, interlaced, bits))
    image, last = Image.new(mode, size, UNSET), _last(size, interlaced)
    unset = image.getpixel(last)
    image.frombytes(data, "zip", layout, interlaced)
    if image.getpixel(last) == unset and not holds(data, _unpacked(size, interlaced, bits)):
        raise Unreadable("the data end before the last row")
    return image


def _last(size: tuple[int, int], interlaced: int) -> tuple[int, int]:
    """The pixel that is decoded last: of an interlaced image the last one of the last pass that has any."""
    width, height = size
    if not interlaced:
        return width - 1, height - 1
    return (width - 1, height // 2 * 2 - 1) if height > 1 else (max(0, width // 2 * 2 - 1), 0)


def _unpacked(size: tuple[int, int], interlaced: int, bits: int) -> int:
    """Bytes of all rows, each with the number of its filter."""
    passes = [(-(-(size[0] - x) // dx), -(-(size[1] - y) // dy)) for x, y, dx, dy in _PASSES] if interlaced else [size]
    return sum(height * (1 + (width * bits + 7) // 8) for width, height in passes if width > 0 and height > 0)


def _require_dense(data: bytes, size: int) -> None:
    """Refuse data of which a piece unpacks to less than half of its size: compression adds a thousandth at the most.

    What comes after so many unpacked bytes is not looked at, nor is it decoded.
    """
    unpacking, pieces, missing = zlib.decompressobj(), memoryview(data), size
    for at in range(0, len(data) - _STEP, _STEP):
        try:
            count = len(unpacking.decompress(pieces[at : at + _STEP], missing))
        except zlib.error:  # which the decoder finds as well
            return
        missing -= count
        if unpacking.eof or missing <= 0:
            return
        if count < _STEP // 2:
            raise Unreadable("the data of the PNG are damaged: they unpack to less than half of their size")


def holds(data: bytes, size: int) -> bool:
    """Whether so many bytes are packed in the data, of which no more are unpacked."""
    unpacking, pieces, missing = zlib.decompressobj(), memoryview(data), size
    for at in range(0, len(data), _STEP):
        try:
            missing -= len(unpacking.decompress(pieces[at : at + _STEP], missing))
        except zlib.error:  # a stream that Pillow could use up to there: all rows come before what is damaged
            return True
        if missing <= 0 or unpacking.eof:
            break
    return missing <= 0
