"""Lenient base64 decoder: line breaks, missing padding, the URL alphabet and `data:` URLs (RFC 4648)."""

import binascii
import re
from collections.abc import Callable
from functools import partial

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
    try:
        return _decoded(text.encode("ascii"))  # strict base64, as most clients send it
    except ValueError:
        return _decode_leniently(text, index)


def _decode_leniently(text: str, index: int) -> bytes:
    start = text.lstrip()
    data = start.partition(",")[2] if start[:5].lower() == "data:" else text
    digits = _in_windows(data.encode("ascii", "replace"), _without_white_space)
    bare = digits[:-2] + digits[-2:].rstrip(b"=")  # more than two are refused with the rest
    try:
        return _decoded(bare + b"=" * max(-len(bare) % 4, len(digits) - len(bare)))
    except ValueError:
        invalid = search(_INVALID, data)
        why = f"it has the character {quoted(invalid[0])}" if invalid else "its length or padding is wrong"
        raise UnprocessableContent(f"images[{index}]: not base64: {why}") from None


def _decoded(digits: bytes) -> bytes:
    return _in_windows(digits, partial(binascii.a2b_base64, strict_mode=True))


def _without_white_space(digits: bytes) -> bytes:
    return digits.translate(_URL_TO_STANDARD, _WHITE_SPACE)


def _in_windows(digits: bytes, work: Callable[[bytes], bytes]) -> bytes:
    if len(digits) <= DECODE_WINDOW:
        return work(digits)
    return b"".join(work(digits[at : at + DECODE_WINDOW]) for at in range(0, len(digits), DECODE_WINDOW))
