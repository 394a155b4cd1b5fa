"""Stripping of image files but PNG: only the bytes that determine the pixels of the first image remain.

The other bytes can keep Pillow busy for long: it visits stray bytes one at a time, and reads and joins profiles,
comments and thumbnails. They are removed in one pass over the file, before Pillow opens it.
Sources: ITU-T T.81 (JPEG), JFIF 1.02, GIF89a, RFC 9649 (WebP).
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from app.codecs.avif import is_avif, strip_avif
from app.codecs.metadata import MAX_METADATA_BYTES, MAX_PIECES, UPRIGHT, TooManyPieces, Unreadable, orientation
from app.codecs.tiff import SIGNATURES, strip_tiff
from app.codecs.windows import search

MAX_JPEG_SCANS = 30
"""Scans of one JPEG. A scan of some ten bytes visits all pixels once more; a progressive photo has ten scans."""

MAX_JPEG_TABLE_BYTES = 2**14
"""Bytes of tables before the first scan of a JPEG; photos have some 2,000."""

_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)  # no stuffed byte, no restart within a scan
_BARE = (0xD8, 0x01)  # SOI, TEM: markers without a segment
_END, _SCAN, _APP0, _APP1, _APP14 = 0xD9, 0xDA, 0xE0, 0xE1, 0xEE
_TABLES = (*range(0xC0, 0xC9), 0xDB, 0xDC, 0xDD)  # frames, Huffman and quantisation tables, lines, restarts
_ARITHMETIC = (*range(0xC9, 0xD0),)
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_BLOCK = re.compile(rb"[!,;]")  # first byte of a block of a GIF: extension, image, end
_WEBP_PIXELS = (b"VP8 ", b"VP8L", b"ANMF")
_ALPHA_ANIMATION = 0x12  # flags of the header without those of a profile, EXIF and XMP, which are removed
_BMP_RLE = (1, 2)
"""Run-length compressions of a BMP. A kilobyte of it takes two seconds."""


class Stripped(NamedTuple):
    """A stripped file with the same pixels, and its orientation as EXIF numbers it.

    `pixels` are those that its decoder visits, if they may be more than those of the image. `format` is Pillow's name
    of the only format that may be decoded, or "" for the common ones.
    """

    content: bytes
    orientation: int = UPRIGHT
    pixels: int = 0
    format: str = ""


def strip(content: bytes) -> Stripped:
    """Strip a file of a known format; a file of another format is returned unchanged.

    Raises `Unreadable` for a file that is damaged or not supported, `TooManyPieces` for one with more segments, blocks,
    chunks or scans than an image needs.
    """
    if content.startswith(b"\xff\xd8\xff"):
        return _strip_jpeg(content)
    if content.startswith((b"GIF87a", b"GIF89a")):
        return Stripped(_strip_gif(content))
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return _strip_webp(content)
    if content.startswith(SIGNATURES):
        return Stripped(*strip_tiff(content), "TIFF")
    if is_avif(content):
        still = strip_avif(content)
        return Stripped(still.content, pixels=still.pixels, format="AVIF")
    if content.startswith(b"BM"):
        _check_bmp(content)
    return Stripped(content)


def _strip_jpeg(content: bytes) -> Stripped:
    kept, exif, xmp, tables = [b"\xff\xd8"], b"", b"", 0
    for marker, start, end in _segments(content):
        body = content[start + 4 : min(end, start + 4 + MAX_METADATA_BYTES)]
        if marker == _SCAN:
            _count_scans(content, start)
            return Stripped(b"".join([*kept, content[start:]]), orientation(exif, xmp))
        if marker in _ARITHMETIC:
            raise Unreadable("expected a JPEG with Huffman coding, got one with arithmetic coding")
        if marker in _TABLES:
            tables += end - start
            kept.append(content[start:end])
        elif marker == _APP0 and body.startswith(b"JFIF\0") and len(body) >= 14:
            kept.append(b"\xff\xe0\x00\x10" + body[:12] + bytes(2))  # without the thumbnail
        elif marker == _APP14 and body.startswith(b"Adobe") and len(body) >= 12:
            kept.append(b"\xff\xee\x00\x0e" + body[:12])
        elif marker == _APP1:
            exif = exif or (body if body.startswith(_EXIF) else b"")
            xmp = xmp or (body if body.startswith(_XMP) else b"")
        if tables > MAX_JPEG_TABLE_BYTES:
            raise TooManyPieces(f"more than {MAX_JPEG_TABLE_BYTES} bytes of tables")
    raise Unreadable("the JPEG data is truncated or damaged")


def _segments(content: bytes, at: int = 2) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment, up to the end of the image."""
    count = 0
    while (found := search(_MARKER, content, at)) and (marker := found[1][0]) != _END:
        at = found.end()
        if marker not in _BARE:
            if (count := count + 1) > MAX_PIECES:
                raise TooManyPieces(f"more than {MAX_PIECES} segments")
            at += int.from_bytes(content[at : at + 2])
            yield marker, found.start(), at


def _count_scans(content: bytes, start: int) -> None:
    scans = 0
    for marker, _, _ in _segments(content, start):
        scans += marker == _SCAN
        if scans > MAX_JPEG_SCANS:
            raise TooManyPieces(f"more than {MAX_JPEG_SCANS} scans")


def _strip_gif(content: bytes) -> bytes:
    """Return the header, the graphic control of the first image, and the file from that image on."""
    flags = content[10] if len(content) > 10 else 0
    start = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    at, control, count = start, b"", 0
    while (found := search(_BLOCK, content, at)) and found[0] != b";":
        if found[0] == b",":
            return content[:start] + control + content[found.start() :]
        begin, at = found.start(), found.end() + 1
        while (count := count + 1) <= MAX_PIECES and content[at : at + 1] > b"\0":
            at += 1 + content[at]
        if count > MAX_PIECES:
            raise TooManyPieces(f"more than {MAX_PIECES} blocks before the image")
        at += 1
        if content[begin + 1 : begin + 3] == b"\xf9\x04":
            control = content[begin : begin + 8]
    raise Unreadable("the GIF data is truncated or damaged")


def _strip_webp(content: bytes) -> Stripped:
    """Return the first image; of an animation with the canvas on which it is drawn."""
    flags = content[20] if content[12:16] == b"VP8X" and len(content) > 20 else 0
    kept, found = [], {b"EXIF": b"", b"XMP ": b""}
    for kind, start, end in _webp_chunks(content):
        if kind == b"VP8X":
            kept.append(content[start : start + 8] + bytes([flags & _ALPHA_ANIMATION]) + content[start + 9 : end])
        elif kind in (b"ANIM", b"ALPH", *_WEBP_PIXELS):
            kept.append(content[start:end])
        elif kind in found:
            found[kind] = content[start + 8 : end][: MAX_METADATA_BYTES + 1]
    body = b"".join([b"WEBP", *kept])
    exif, xmp = found[b"EXIF"] if flags & 8 else b"", found[b"XMP "] if flags & 4 else b""
    return Stripped(b"RIFF" + len(body).to_bytes(4, "little") + body, orientation(exif, xmp))


def _webp_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of each chunk; of the chunks with pixels only the first."""
    length = 8 + int.from_bytes(content[4:8], "little")
    at, count, pixels = 12, 0, False
    while at + 8 <= length:
        if (count := count + 1) > MAX_PIECES:
            raise TooManyPieces(f"more than {MAX_PIECES} chunks")
        kind, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        end = at + 8 + size + size % 2
        if at + 8 + size > len(content):
            raise Unreadable("the WEBP data is truncated or damaged")
        if not pixels or kind not in (b"ALPH", *_WEBP_PIXELS):
            yield kind, at, end
        pixels = pixels or kind in _WEBP_PIXELS
        at = end


def _check_bmp(content: bytes) -> None:
    """Refuse run-length compression, which Pillow decodes byte by byte, and more colours than a pixel can have."""
    if int.from_bytes(content[14:18], "little") < 40:  # the version of OS/2 has neither
        return
    if int.from_bytes(content[30:34], "little") in _BMP_RLE:
        raise Unreadable("expected a BMP without run-length compression, got one with it")
    if (colours := int.from_bytes(content[46:50], "little")) > 256 and content[28] <= 8:
        raise Unreadable(f"expected a BMP of at most 256 colours, got {colours}")
