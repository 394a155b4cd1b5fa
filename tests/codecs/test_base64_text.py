"""Base64 of all kinds of clients is decoded, and invalid base64 is refused with the reason."""

import base64
import re
import textwrap
import time
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from app.codecs.base64_text import DECODE_WINDOW, decode_base64, decode_floats, encode_floats
from app.errors import UnprocessableContent

WRITERS = {
    "standard": lambda content: base64.b64encode(content).decode(),
    "line breaks": lambda content: base64.encodebytes(content).decode(),
    "line breaks of Windows": lambda content: textwrap.fill(base64.b64encode(content).decode(), 76).replace(
        "\n", "\r\n"
    ),
    "no padding": lambda content: base64.b64encode(content).decode().rstrip("="),
    "half the padding": lambda content: base64.b64encode(content).decode().replace("==", "="),
    "URL alphabet": lambda content: base64.urlsafe_b64encode(content).decode(),
    "URL alphabet without padding": lambda content: base64.urlsafe_b64encode(content).decode().rstrip("="),
    "a data: URL": lambda content: "data:image/png;base64," + base64.b64encode(content).decode(),
    "a data: URL in capitals after blanks": lambda content: (
        "\n DATA:;BASE64," + base64.b64encode(content).decode() + "\n"
    ),
    "a data: URL of lines": lambda content: "data:image/png;base64,\n" + base64.encodebytes(content).decode(),
}


@settings(max_examples=30)
@pytest.mark.parametrize("writer", WRITERS)
@given(content=st.binary(max_size=200))
def test_base64_of_any_writer_is_decoded(writer, content):
    assert decode_base64(WRITERS[writer](content), 0) == content


@pytest.mark.parametrize("more", range(-4, 5))
@pytest.mark.parametrize("writer", WRITERS)
def test_base64_around_the_length_of_a_window_is_decoded(writer, more):
    content = bytes(range(256)) * (DECODE_WINDOW // 256)
    content = content[: DECODE_WINDOW * 3 // 4 + more] + content[: DECODE_WINDOW + more]
    assert decode_base64(WRITERS[writer](content), 0) == content


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("A", "its length or padding is wrong"),
        ("QUJDR", "its length or padding is wrong"),
        ("QQ===", "its length or padding is wrong"),
        ("QQ==QQ==", "its length or padding is wrong"),
        ("====", "its length or padding is wrong"),
        ("QU*D", r"it has the character '\*'"),
        ("QU\0D", r"it has the character '\\x00'"),
        ("QU\u2028D", r"it has the character '\\u2028'"),
        ("QU\u00a0D", r"it has the character '\\xa0'"),
        ("data:image/svg+xml,<svg>", "it has the character '<'"),
    ],
)
def test_invalid_base64_is_refused_with_the_reason(text, sentence):
    with pytest.raises(UnprocessableContent, match=rf"images\[3\]: not base64: {sentence}"):
        decode_base64(text, 3)


@given(st.text())
def test_any_text_is_decoded_or_refused(text):
    with suppress(UnprocessableContent):
        assert len(decode_base64(text, 0)) <= len(text)


@pytest.mark.parametrize("unit", ["A\n", "QQ==", "=", " ", "-_", "data:,", "A" * 76 + "\r\n"])
def test_the_time_to_decode_or_refuse_is_linear(unit):
    def seconds(size: int) -> float:
        text, best = unit * (size // len(unit)), float("inf")
        for _ in range(3):
            start = time.process_time()
            with suppress(UnprocessableContent):
                decode_base64(text, 0)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(2**22) < 40 * seconds(2**19) + 0.05  # 64 times as long were it quadratic


@given(arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32)))
def test_floats_survive_base64(numbers):
    text = encode_floats(numbers).decode()
    np.testing.assert_array_equal(decode_floats(text, numbers.shape, "latents[0]"), numbers)


def test_floats_are_little_endian():
    assert base64.b64decode(encode_floats(np.array([1.0], ">f8"))) == b"\0\0\x80\x3f"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("AAAA", "latents[0].mean: expected 8 bytes of 2 float32 numbers, got 3"),
        ("", "latents[0].mean: expected 8 bytes of 2 float32 numbers, got 0"),
        ("?" * 12, "latents[0].mean: not base64: it has the character '?'"),
    ],
)
def test_text_that_is_not_so_many_floats_is_refused(text, reason):
    with pytest.raises(UnprocessableContent, match=re.escape(reason)):
        decode_floats(text, (2,), "latents[0].mean")
