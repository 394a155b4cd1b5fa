"""Search in windows: same results as one search, in calls that look at a bounded part of the content."""

import re
import sys
from collections.abc import Callable
from contextlib import suppress

import pytest

from app.codecs.stripping import strip
from app.codecs.windows import PATTERN_WINDOW, WINDOW, find, search
from app.errors import ServiceError

PAIR = re.compile(rb"\xff[\x01-\xfe]")
LONG = 2**24


@pytest.mark.parametrize(
    "place", [0, 1, PATTERN_WINDOW - 2, PATTERN_WINDOW - 1, PATTERN_WINDOW, 2 * PATTERN_WINDOW + 5]
)
@pytest.mark.parametrize("start", [0, 1, 7])
def test_a_pair_of_bytes_is_found_at_any_position(place, start):
    content = b"\xff\x00" * 20 + b"x" * place + b"\xff\x01" + b"y"
    found = search(PAIR, content, start)
    assert found is not None
    assert found.span() == (place + 40, place + 42)
    assert search(PAIR, content, place + 41) is None


@pytest.mark.parametrize("place", [0, 1, WINDOW - 2, WINDOW - 1, WINDOW, 2 * WINDOW + 5])
def test_bytes_are_found_at_any_position(place):
    content = b"x" * place + b"abc" + b"y"
    assert find(content, b"abc", 0) == place
    assert find(content, b"abc", place + 1) == -1


UNTERMINATED = {
    "fill bytes of a JPEG": lambda: strip(b"\xff\xd8" + b"\xff" * LONG),
    "stray bytes of a JPEG": lambda: strip(b"\xff\xd8\xff" + bytes(LONG)),
    "stray bytes of a GIF": lambda: strip(b"GIF89a" + bytes(LONG)),
}


@pytest.mark.parametrize("work", UNTERMINATED.values(), ids=UNTERMINATED)
def test_long_content_is_searched_to_its_end_in_many_calls_between_which_other_threads_can_run(work):
    assert count_searches(work) >= LONG / max(WINDOW, PATTERN_WINDOW)


def count_searches(work: Callable[[], object]) -> int:
    """Return how many calls into C searched for something: each of them keeps the interpreter's lock until it ends."""
    searches = 0

    def count(_frame: object, event: str, called: object) -> None:
        nonlocal searches
        searches += event == "c_call" and getattr(called, "__name__", "") in {"find", "index", "search", "match"}

    sys.setprofile(count)
    try:
        with suppress(ServiceError, ValueError):
            work()
    finally:
        sys.setprofile(None)
    return searches
