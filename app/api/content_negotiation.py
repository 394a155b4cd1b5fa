"""Content negotiation: the media type of a response, by the Accept header of the request (RFC 9110, 12.5.1)."""

from functools import lru_cache

import mimeparse

from app.codecs.media_types import JPEG, PNG, WEBP
from app.http.problems import PROBLEM

MAX_ACCEPT_LENGTH = 1000
"""Bytes of an Accept header that are parsed, more than any browser sends. Parsing takes quadratic time."""


@lru_cache(maxsize=64)  # most clients send one of a few Accept headers
def negotiate(offered: tuple[str, ...], accept: bytes) -> str:
    """Return the first of the offered media types that the Accept header prefers (RFC 9110, 12.5.1), or "".

    An image has loss only if the header excludes PNG: browsers prefer WebP wherever they accept any image. A header of
    nothing but the media type of errors, which some generated clients send, excludes nothing.
    """
    if not accept:
        return offered[0]
    if len(accept) > MAX_ACCEPT_LENGTH:
        return ""
    best = _best(offered, accept)
    if not best and accept.partition(b";")[0].strip().lower() == PROBLEM.encode():
        return offered[0]
    if best in (JPEG, WEBP) and PNG in offered and _best((PNG,), accept):
        return PNG
    return best


def _best(offered: tuple[str, ...], accept: bytes) -> str:
    try:  # on a tie the library returns the last
        best: str = mimeparse.best_match(list(reversed(offered)), accept.decode("latin-1").lower())
    except mimeparse.MimeTypeParseException:
        return ""
    return best
