"""Searching in windows: long content is searched a bounded number of bytes at a time.

`bytes.find` and the functions of `re` hold the interpreter's lock until they return. Between two windows other threads,
and with them the event loop, can run.
"""

import re
from typing import AnyStr, Protocol

WINDOW = 2**18
"""Bytes that one call of `bytes.find` looks at: some 0.1 ms."""

PATTERN_WINDOW = 2**16
"""Bytes or characters that one call of a regular expression looks at: some 1 ms."""


class Pattern(Protocol[AnyStr]):
    """A compiled regular expression that matches a single byte or character, or a pair of bytes."""

    def search(self, string: AnyStr, pos: int, endpos: int, /) -> re.Match[AnyStr] | None:
        """Return the first match between two positions, or None."""


def find(content: bytes, needle: bytes, start: int) -> int:
    """Return the position of the first `needle` at or after `start`, or -1."""
    while start < len(content):
        found = content.find(needle, start, start + WINDOW + len(needle) - 1)
        if found >= 0:
            return found
        start += WINDOW
    return -1


def search(pattern: Pattern[AnyStr], content: AnyStr, start: int = 0) -> re.Match[AnyStr] | None:
    """Return the first match at or after `start` of a pattern that matches at most two bytes, or None."""
    while start < len(content):
        found = pattern.search(content, start, start + PATTERN_WINDOW + 1)
        if found:
            return found
        start += PATTERN_WINDOW
    return None
