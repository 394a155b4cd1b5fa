"""Content negotiation: the media type of a response, by the Accept header of the request (RFC 9110, 12.5.1)."""

from functools import lru_cache

import mimeparse

MAX_ACCEPT_LENGTH = 1000
"""Bytes of an Accept header that are parsed, more than any browser sends. Parsing takes quadratic time."""


@lru_cache(maxsize=64)  # most clients send one of a few Accept headers
def negotiate(offered: tuple[str, ...], accept: bytes) -> str:
    """Return the first of the offered media types that the Accept header prefers (RFC 9110, 12.5.1), or ""."""
    if not accept:
        return offered[0]
    if len(accept) > MAX_ACCEPT_LENGTH:
        return ""
    try:  # on a tie the library returns the last
        best: str = mimeparse.best_match(list(reversed(offered)), accept.decode("latin-1").lower())
    except mimeparse.MimeTypeParseException:
        best = ""
    return best
