"""Search in windows: same results as one search, and other threads run in between."""

import re

import pytest

from app.codecs.stripping import strip
from app.codecs.windows import PATTERN_WINDOW, WINDOW, find, search
from tests.support.interpreter_lock import lock_handovers

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
def test_other_threads_run_while_long_content_is_searched_to_its_end(work):
    assert lock_handovers(work) > 8  # 4 without windows, 21 of 64 possible ones on a busy machine
