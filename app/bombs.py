"""Picture files that are small and would keep a core busy for a long time, told from others before they are decoded.

A scan of a JPEG takes some fifty bytes and goes over all pixels once more; Pillow reads the pieces around a picture one
by one, of which a megabyte holds a hundred thousand, and joins some of them each time.
"""

import re

SCANS = 30
"""Of one JPEG. A progressive photo has ten."""

SEGMENTS = 1000
"""Of one JPEG, and some are joined each time. Metadata of ten megabytes have 160."""

CHUNKS = 10_000
"""Of one PNG, or comments of a GIF. A PNG of 32 MB has 4,000, if its encoder writes 8 kB at a time."""

_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)  # no stuffed byte, no restart within a scan
_START, _END, _SCAN, _TEM = 0xD8, 0xD9, 0xDA, 0x01  # ITU T.81, table B.1


def is_bomb(content: bytes) -> bool:
    """Whether the file has more of these than a picture needs."""
    if content.startswith(b"\xff\xd8"):
        return _is_jpeg_bomb(content)
    if content.startswith(b"\x89PNG"):
        return _is_png_bomb(content)
    return content.startswith(b"GIF8") and content.count(b"\x21\xfe") > CHUNKS


def _is_jpeg_bomb(content: bytes) -> bool:
    at, segments, scans = 2, 0, 0
    while segments <= SEGMENTS and scans <= SCANS and (found := _MARKER.search(content, at)):
        at, marker = found.end(), found[1][0]
        if marker == _END:
            return False
        if marker not in (_START, _TEM):  # which have no length
            segments, scans = segments + 1, scans + (marker == _SCAN)
            at += int.from_bytes(content[at : at + 2])
    return segments > SEGMENTS or scans > SCANS


def _is_png_bomb(content: bytes) -> bool:
    at, chunks = 8, 0
    while chunks <= CHUNKS and at < len(content) and content[at + 4 : at + 8] != b"IEND":
        at, chunks = at + 12 + int.from_bytes(content[at : at + 4]), chunks + 1
    return chunks > CHUNKS
