"""Base64 as clients write it: with line breaks, without padding, in the URL alphabet, in a `data:` URL (RFC 4648)."""

import binascii
import re

from app.errors import Unusable
from app.findings import quoted

_URL_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_WHITE_SPACE = b" \t\r\n\f\v"
_STRANGE = re.compile(r"[^A-Za-z0-9+/=_\-\s]", re.ASCII)


def decode_base64(text: str, index: int) -> bytes:
    """The bytes that a text stands for; `Unusable` names image `index` where it is no base64. Takes linear time."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)  # what most clients send
    except ValueError:
        return _decode_leniently(text, index)


def _decode_leniently(text: str, index: int) -> bytes:
    start = text.lstrip()
    data = start.partition(",")[2] if start[:5].lower() == "data:" else text
    digits = data.encode("ascii", "replace").translate(_URL_TO_STANDARD, _WHITE_SPACE)
    bare = digits.rstrip(b"=")
    padded = bare + b"=" * max(-len(bare) % 4, len(digits) - len(bare))
    try:
        return binascii.a2b_base64(padded, strict_mode=True)
    except ValueError:
        strange = _STRANGE.search(data)
        why = f"it has the character {quoted(strange[0])}" if strange else "its length or padding is wrong"
        raise Unusable(f"images[{index}]: not base64: {why}") from None
