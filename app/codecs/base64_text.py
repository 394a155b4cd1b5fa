"""Base64 as clients write it: with line breaks, without padding, in the URL alphabet, in a `data:` URL (RFC 4648)."""

import binascii
import re
from collections.abc import Callable
from functools import partial

from app.codecs.windows import search
from app.errors import UnprocessableContent
from app.validation import quoted

PIECE = 2**18
"""Characters that are decoded at a time, a multiple of 4. The event loop waits while binascii decodes."""

_URL_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_WHITE_SPACE = b" \t\r\n\f\v"
_STRANGE = re.compile(r"[^A-Za-z0-9+/=_\-\s]", re.ASCII)


def decode_base64(text: str, index: int) -> bytes:
    """Decode base64 in linear time.

    `UnprocessableContent` names image `index` where the text is no base64.
    """
    try:
        return _decoded(text.encode("ascii"))  # what most clients send
    except ValueError:
        return _decode_leniently(text, index)


def _decode_leniently(text: str, index: int) -> bytes:
    start = text.lstrip()
    data = start.partition(",")[2] if start[:5].lower() == "data:" else text
    digits = _in_pieces(data.encode("ascii", "replace"), _without_white_space)
    bare = digits.rstrip(b"=")
    try:
        return _decoded(bare + b"=" * max(-len(bare) % 4, len(digits) - len(bare)))
    except ValueError:
        strange = search(_STRANGE, data)
        why = f"it has the character {quoted(strange[0])}" if strange else "its length or padding is wrong"
        raise UnprocessableContent(f"images[{index}]: not base64: {why}") from None


def _decoded(digits: bytes) -> bytes:
    return _in_pieces(digits, partial(binascii.a2b_base64, strict_mode=True))


def _without_white_space(digits: bytes) -> bytes:
    return digits.translate(_URL_TO_STANDARD, _WHITE_SPACE)


def _in_pieces(digits: bytes, work: Callable[[bytes], bytes]) -> bytes:
    if len(digits) <= PIECE:
        return work(digits)
    return b"".join(work(digits[at : at + PIECE]) for at in range(0, len(digits), PIECE))
