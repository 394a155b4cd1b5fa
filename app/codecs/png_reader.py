"""Reader of all kinds of PNG files (W3C, PNG third edition), around Pillow's decoder of compressed rows.

Only the chunks that determine pixels are read. Pillow's own reader decompresses every profile and text of a file before
it decodes, and takes several times as long for a small file.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from app.codecs.metadata import MAX_METADATA_BYTES, MAX_PIECES, UPRIGHT, TooManyPieces, Unreadable, orientation
from model.data.images import BAND_PIXELS

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
"""Factor by which the decoder scales a sample of so many bits."""

_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Adam7 interlacing: first column and row of each pass, and the steps between columns and rows."""

_STEP = 2**14
"""Compressed bytes of one decompression step; each gives at most a thousand bytes."""

MAX_UNCHECKED_BYTES = 2**23
"""Bytes of compressed data that are decoded without a check of their density. Empty blocks of 11 bytes take a second
for so many bytes."""

UNDECODED = 1
"""Value of pixels before they are decoded, which the last pixel of few images has."""

CHUNK = struct.Struct(">I4s")
HEADER = struct.Struct(">IIBBBBB")
_MAX_TEXT_BYTES = 3 * MAX_METADATA_BYTES
"""Bytes of a text that is read: EXIF takes two hexadecimal digits for a byte, and a line end after 36 bytes."""

MAX_UNPACKED_TEXT = 2**14
"""Bytes of a compressed text that are decompressed. The orientation is among the first tags of EXIF and XMP."""

_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS")
_RAW_EXIF, _XMP = b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"
_ORIENTATION_CHUNKS = {b"eXIf": b"", b"tEXt": _RAW_EXIF, b"zTXt": _RAW_EXIF, b"iTXt": _XMP}
"""Chunks that may contain the orientation, with the beginning of their data in that case."""


class Png(NamedTuple):
    """A PNG file that is not decoded; `palette` and `transparency` are its PLTE and tRNS, or empty."""

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
        """Return the name of the format in Pillow."""
        return "PNG"

    @property
    def orientation(self) -> int:
        """Return the orientation in EXIF or XMP, which are decompressed for it."""
        return _orientation(self.metadata) if self.metadata else UPRIGHT

    @property
    def cost(self) -> int:
        """Cost of decoding: the pixels, thrice for 16 bits, and the beginning of each compressed text in bytes."""
        pixels = self.width * self.height * (3 if self.depth == 16 else 1)
        return pixels + MAX_UNPACKED_TEXT * sum(map(_is_compressed, self.metadata.items()))

    def image(self) -> Image.Image:
        """Decode the image as Pillow's reader does, except that all bits of transparent samples are compared.

        Raises `ValueError` for data that are damaged or end before the last row.
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
            return self._clear(image, self.transparency)
        return image

    def _clear(self, image: Image.Image, colour: bytes) -> Image.Image:
        """Make one colour of 16-bit samples transparent; the image has the upper 8 bits of each sample."""
        lower = self._decoded("RGB", "RGB;16L")  # the lower byte of each sample
        samples = np.frombuffer(colour, np.uint8, 6)
        cleared, rows = Image.new("RGBA", image.size), max(1, BAND_PIXELS // self.width)
        for top in range(0, self.height, rows):
            box = (0, top, self.width, min(self.height, top + rows))
            band = image.crop(box)
            differs = (np.asarray(band) != samples[::2]) | (np.asarray(lower.crop(box)) != samples[1::2])
            band.putalpha(Image.fromarray(differs[..., 0] | differs[..., 1] | differs[..., 2]))
            cleared.paste(band, (0, top))
        return cleared

    def _decoded(self, mode: str, layout: str) -> Image.Image:
        bits = self.depth * _SAMPLES[self.colour]
        return _decode_rows(mode, layout, (self.width, self.height), self.data, self.interlaced, bits)


def open_png(content: bytes) -> Png:
    """Find the parts of a file that determine its pixels, in one pass.

    Raises `Unreadable` for a file without a usable header, palette or data, `TooManyPieces` for too many chunks.
    """
    found: dict[bytes, bytes] = {}
    data = []
    for kind, start, end in _chunks(content):
        if kind == b"IDAT":
            data.append(content[start:end])
        elif kind in _PIXEL_CHUNKS and not data:
            found[kind] = _checked(content, start, end)
        elif (
            kind in _ORIENTATION_CHUNKS
            and content.startswith(_ORIENTATION_CHUNKS[kind], start)
            and end - start <= _MAX_TEXT_BYTES
        ):
            found[kind] = content[start:end]
    header, palette, transparency = (found.get(kind, b"") for kind in _PIXEL_CHUNKS)
    width, height, depth, colour, compression, filtering, interlaced = HEADER.unpack(header.ljust(HEADER.size, b"\0"))
    usable = width and height and (depth, colour) in _DECODED and not compression and not filtering and interlaced < 2
    if colour == _PALETTE:
        usable = usable and 0 < len(palette) <= 768 and len(palette) % 3 == 0
    elif b"tRNS" in found:
        usable = usable and len(transparency) >= {_GREY: 2, _COLOUR: 6}.get(colour, 0)
    if not usable or len(header) != HEADER.size:
        raise Unreadable("the header of the PNG is damaged")
    metadata = {kind: chunk for kind, chunk in found.items() if kind in _ORIENTATION_CHUNKS}
    return Png(width, height, depth, colour, interlaced, palette, transparency[:256], b"".join(data), metadata)


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of the data of each chunk, up to IEND or the end of the file."""
    at, count = len(SIGNATURE), 0
    while at + CHUNK.size <= len(content):
        if (count := count + 1) > MAX_PIECES:
            raise TooManyPieces(f"more than {MAX_PIECES} chunks")
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
    packed = _decompress_text(metadata.get(b"zTXt", b"").removeprefix(_RAW_EXIF)[1:])  # after the compression method
    raw = packed or metadata.get(b"tEXt", b"").removeprefix(_RAW_EXIF)
    text = metadata.get(b"iTXt", b"").removeprefix(_XMP)
    xmp = text[2:].split(b"\0", 2)[-1]  # after the language, and the keyword in it
    return orientation(metadata.get(b"eXIf") or _bytes_of_hex(raw), _decompress_text(xmp) if text[:1] == b"\1" else xmp)


def _decompress_text(text: bytes) -> bytes:
    """Return the first `MAX_UNPACKED_TEXT` bytes of a compressed text; nothing if they are damaged."""
    try:
        return zlib.decompressobj().decompress(text, MAX_UNPACKED_TEXT)
    except zlib.error:
        return b""


def _bytes_of_hex(text: bytes) -> bytes:
    """Decode the text of ImageMagick: hexadecimal digits after three lines (an empty one, the kind, the length)."""
    digits = b"".join(text.split(b"\n")[3:])
    try:
        return bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii"))
    except ValueError:
        return b""


def _decode_rows(mode: str, layout: str, size: tuple[int, int], data: bytes, interlaced: int, bits: int) -> Image.Image:
    """Decode the rows in `data`; raises `ValueError` if they are damaged or too few.

    Pillow does not report rows that are missing at the end of a valid stream. If the last pixel has the value of an
    undecoded one, the data are decompressed once more to count their bytes.
    """
    if len(data) > MAX_UNCHECKED_BYTES:
        _require_dense(data, _row_bytes(size, interlaced, bits))
    image, last = Image.new(mode, size, UNDECODED), _last_pixel(size, interlaced)
    unset = image.getpixel(last)
    image.frombytes(data, "zip", layout, interlaced)
    if image.getpixel(last) == unset and not unpacks_to(data, _row_bytes(size, interlaced, bits)):
        raise Unreadable("the data end before the last row")
    return image


def _last_pixel(size: tuple[int, int], interlaced: int) -> tuple[int, int]:
    """Return the pixel that is decoded last; in an interlaced image the last one of the last pass with pixels."""
    width, height = size
    if not interlaced:
        return width - 1, height - 1
    return (width - 1, height // 2 * 2 - 1) if height > 1 else (max(0, width // 2 * 2 - 1), 0)


def _row_bytes(size: tuple[int, int], interlaced: int, bits: int) -> int:
    """Return the bytes of all rows, each with one byte for its filter."""
    passes = [(-(-(size[0] - x) // dx), -(-(size[1] - y) // dy)) for x, y, dx, dy in _PASSES] if interlaced else [size]
    return sum(height * (1 + (width * bits + 7) // 8) for width, height in passes if width > 0 and height > 0)


def _require_dense(data: bytes, size: int) -> None:
    """Refuse data with a piece that decompresses to less than half of its size; compression adds a thousandth at most.

    Data after the first `size` bytes are neither checked nor decoded.
    """
    unpacking, pieces, missing = zlib.decompressobj(), memoryview(data), size
    for at in range(0, len(data) - _STEP, _STEP):
        try:
            count = len(unpacking.decompress(pieces[at : at + _STEP], missing))
        except zlib.error:  # the decoder reports it
            return
        missing -= count
        if unpacking.eof or missing <= 0:
            return
        if count < _STEP // 2:
            raise Unreadable("the data of the PNG are damaged: they unpack to less than half of their size")


def unpacks_to(data: bytes, size: int) -> bool:
    """Return whether the data decompress to at least `size` bytes; no more are decompressed."""
    unpacking, pieces, missing = zlib.decompressobj(), memoryview(data), size
    for at in range(0, len(data), _STEP):
        try:
            missing -= len(unpacking.decompress(pieces[at : at + _STEP], missing))
        except zlib.error:  # Pillow could decode the stream, so all rows are before the damage
            return True
        if missing <= 0 or unpacking.eof:
            break
    return missing <= 0
