"""Media types of bodies: detected by the first bytes, with the content type as a hint."""

import re

from app.codecs.avif import is_avif
from app.codecs.tiff import SIGNATURES

JSON, MULTIPART, NPY = "application/json", "multipart/form-data", "application/x-npy"
IMAGE, PNG, JPEG, WEBP = "image/*", "image/png", "image/jpeg", "image/webp"

_NPY_MAGIC = b"\x93NUMPY"
_IMAGE_MAGIC = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    **dict.fromkeys(SIGNATURES, "TIFF"),
}
_IMAGE_STARTS = tuple(_IMAGE_MAGIC)
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # their sizes in bytes, one for each version of the format
_JSON = re.compile(rb"[ \t\r\n]{0,1024}[{\[]")

# A quoted value ends at the next quote without a backslash before it, or with the header. No part is matched twice.
_PARAMETER = re.compile(
    r';[ \t]*+([^ \t;="]++)[ \t]*+=[ \t]*+(?:"([^"\\]*+(?:\\.[^"\\]*+)*+)"?|([^;]*+))',
    re.DOTALL,
)


def kind_of(content_type: str, body: bytes) -> str:
    """Detect the media type of a body: `IMAGE`, `NPY`, `MULTIPART` or `JSON`, otherwise its content type in lower case.

    Multipart is detected by the content type, the others by the first bytes, or by the content type if these are
    damaged.
    """
    declared = content_type.partition(";")[0].strip().lower()
    if declared == JSON and body.startswith((b"{", b"[")):  # the usual case, decided first
        return JSON
    if body.startswith(_NPY_MAGIC):
        return NPY
    if is_image(body):
        return IMAGE
    if declared != MULTIPART and _JSON.match(body):
        return JSON
    return IMAGE if declared.startswith("image/") else declared


def is_image(content: bytes) -> bool:
    """Return whether the first bytes are those of a PNG, JPEG, GIF, WebP, TIFF, AVIF or BMP file."""
    if content.startswith(_IMAGE_STARTS):
        return True
    if content.startswith(b"RIFF"):
        return content[8:12] == b"WEBP"
    if content[4:8] == b"ftyp":
        return is_avif(content)
    return content.startswith(b"BM") and int.from_bytes(content[14:18], "little") in _BMP_HEADERS


def image_format(content: bytes) -> str:
    """Return the name of the format of which `is_image` finds the first bytes, for example PNG."""
    others = {b"RI": "WEBP", b"BM": "BMP"}
    named = (name for start, name in _IMAGE_MAGIC.items() if content.startswith(start))
    return next(named, others.get(content[:2], "AVIF"))


def is_heic(content: bytes) -> bool:
    """Return whether the first bytes are those of an image in HEIC, the format of many phones, which is not read."""
    return content[4:8] == b"ftyp" and any(content[at : at + 4] in _HEIC_BRANDS for at in range(8, 64, 4))


def parameters(header: str) -> dict[str, str]:
    """Parse the parameters of a Content-Type or Content-Disposition, with names in lower case (RFC 9110 5.6.6).

    The first value of a repeated name counts. Escapes in quotes are kept. Takes linear time.
    """
    found: dict[str, str] = {}
    for name, in_quotes, bare in _PARAMETER.findall(header):
        found.setdefault(name.lower(), in_quotes or bare.rstrip(" \t"))
    return found
