"""Base64 (RFC 4648): a lenient decoder of line breaks, missing padding, the URL alphabet and `data:` URLs; floats."""

import binascii
import re
from collections.abc import Callable, Sequence
from functools import partial
from math import prod

import numpy as np

from app.codecs.windows import search
from app.errors import UnprocessableContent
from app.validation import quoted

DECODE_WINDOW = 2**18
"""Characters that are decoded in one step, a multiple of 4. binascii holds the interpreter's lock while it decodes."""

_URL_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_WHITE_SPACE = b" \t\r\n\f\v"
_INVALID = re.compile(r"[^A-Za-z0-9+/=_\-\s]", re.ASCII)


def decode_base64(text: str, index: int) -> bytes:
    """Decode base64 in linear time.

    Raises `UnprocessableContent` with the `index` of the image for text that is not base64.
    """
    return _decode(text, f"images[{index}]")


def _decode(text: str, where: str) -> bytes:
    try:
        return _decoded(text.encode("ascii"))  # strict base64, as most clients send it
    except ValueError:
        return _decode_leniently(text, where)


def encode_floats(numbers: np.ndarray) -> bytes:
    """Encode an array as little-endian float32 in base64."""
    return binascii.b2a_base64(np.ascontiguousarray(numbers, "<f4").data, newline=False)


def decode_floats(text: str, shape: Sequence[int], where: str) -> np.ndarray:
    """Decode little-endian float32 in base64 to an array of a shape.

    Raises `UnprocessableContent` for text, which is `where`, that is not base64 or has another number of bytes.
    """
    content, count = _decode(text, where), prod(shape)
    if len(content) != 4 * count:
        raise UnprocessableContent(
            f"{where}: expected {4 * count} bytes of {count} float32 numbers, got {len(content)}"
        )
    return np.frombuffer(content, "<f4").reshape(shape)


def _decode_leniently(text: str, where: str) -> bytes:
    start = text.lstrip()
    data = start.partition(",")[2] if start[:5].lower() == "data:" else text
    digits = _in_windows(data.encode("ascii", "replace"), _without_white_space)
    bare = digits[:-2] + digits[-2:].rstrip(b"=")  # more than two are refused with the rest
    try:
        return _decoded(bare + b"=" * max(-len(bare) % 4, len(digits) - len(bare)))
    except ValueError:
        invalid = search(_INVALID, data)
        why = f"it has the character {quoted(invalid[0])}" if invalid else "its length or padding is wrong"
        raise UnprocessableContent(f"{where}: not base64: {why}") from None


def _decoded(digits: bytes) -> bytes:
    return _in_windows(digits, partial(binascii.a2b_base64, strict_mode=True))


def _without_white_space(digits: bytes) -> bytes:
    return digits.translate(_URL_TO_STANDARD, _WHITE_SPACE)


def _in_windows(digits: bytes, work: Callable[[bytes], bytes]) -> bytes:
    if len(digits) <= DECODE_WINDOW:
        return work(digits)
    return b"".join(work(digits[at : at + DECODE_WINDOW]) for at in range(0, len(digits), DECODE_WINDOW))
