"""Malicious image files: decoding takes bounded time."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.support.image_files import chunk, stored

pytestmark = pytest.mark.anyio

MIB = 2**20
DEADLINE_S = 6
"""Deadline of each request; without the limits of the decoders each of these files took longer and got 504."""

DIGIT = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 11), np.uint8))
PNG, JPEG, GIF = (stored(DIGIT, form) for form in ("PNG", "JPEG", "GIF"))
GIF_START = 13 + (3 << (GIF[10] & 7) + 1 if GIF[10] & 0x80 else 0)
BMP = stored(DIGIT.convert("P"), "BMP")
BLANK = stored(Image.new("RGBA", (4096, 4096), (1, 2, 3, 4)), "WEBP", lossless=True)
PROFILE = chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(MIB)))

TIFF_BLANK = stored(Image.new("L", (4096, 4096)), "TIFF", compression="tiff_adobe_deflate")
AVIF_BLANK = stored(Image.new("RGB", (4096, 2048)), "AVIF", speed=10)

ATTACKS = {
    "TIFF, kilobytes for each 16 megapixels": (413, lambda: [TIFF_BLANK] * 40),
    "TIFF, 30 MiB of tags": (413, lambda: [b"II*\0\x08\0\0\0\xff\xff" + bytes(30 * MIB)]),
    "TIFF, 30 MiB after the page": (200, lambda: [stored(DIGIT, "TIFF") + bytes(30 * MIB)]),
    "AVIF, kilobytes for each 8 megapixels": (413, lambda: [AVIF_BLANK] * 40),
    "AVIF, a frame of 8 megapixels in a small image": (
        422,
        lambda: [AVIF_BLANK.replace(struct.pack(">II", 4096, 2048), struct.pack(">II", 8, 8))] * 40,
    ),
    "AVIF, 30 MiB of boxes": (413, lambda: [AVIF_BLANK + struct.pack(">I4s", 8, b"free") * (30 * MIB // 8)]),
    "PNG, 9,900 profiles of 1 MiB": (200, lambda: [PNG[:33] + PROFILE * 9900 + PNG[33:]]),
    "PNG, more profiles than chunks may be": (413, lambda: [PNG[:33] + PROFILE * 10_001 + PNG[33:]]),
    "GIF, 30 MiB of junk before the frame": (200, lambda: [GIF[:GIF_START] + bytes(30 * MIB) + GIF[GIF_START:]]),
    "JPEG, 30 MiB of fill bytes": (200, lambda: [JPEG[:2] + b"\xff" * (30 * MIB) + JPEG[2:]]),
    "JPEG, nothing but fill bytes": (422, lambda: [JPEG[:2] + b"\xff" * (30 * MIB)]),
    "JPEG, 30 MiB of junk": (200, lambda: [JPEG[:20] + bytes(30 * MIB) + JPEG[20:]]),
    "WebP, 714 bytes for each 16 megapixels": (413, lambda: [BLANK] * 16),
    "BMP, palettes of 65,536 colours": (422, lambda: [BMP[:46] + struct.pack("<I", 65_536) + BMP[50:]] * 500),
}


@pytest.mark.parametrize(("status", "files"), ATTACKS.values(), ids=ATTACKS)
async def test_an_image_file_that_is_expensive_to_decode_is_answered_before_the_deadline(serve, status, files):
    async with serve(request_timeout_s=DEADLINE_S) as client:
        parts = [("images", (f"{index}.png", content)) for index, content in enumerate(files())]
        answer = await client.post("/encode", files=parts)
    assert (answer.status_code, "images[0]" in answer.text) == (status, status != 200)
