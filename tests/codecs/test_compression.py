"""Compressed bodies: every coding is undone, bombs and damaged data are refused, and compression pays."""

import gzip
import time
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.codecs.compression import DECODED, STEP, accepted_coding, compress, decompress, zstd
from app.codecs.metadata import MAX_PIECES
from app.errors import BadRequest, ContentTooLarge

WRITERS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstd.compress}
CODINGS = pytest.mark.parametrize("coding", DECODED)


@CODINGS
@given(parts=st.lists(st.binary(max_size=300), min_size=1, max_size=4))
def test_all_members_of_a_body_are_decompressed(coding, parts):
    body = b"".join(map(WRITERS[coding], parts))
    if coding == "deflate":  # it has no members
        parts = parts[:1]
        body = WRITERS[coding](parts[0])
    assert decompress(body, coding, 2000) == b"".join(parts)


@CODINGS
def test_a_large_body_is_decompressed_in_steps(coding):
    content = np.random.default_rng(0).bytes(3 * STEP + 5) * 2
    assert decompress(WRITERS[coding](content), coding, len(content)) == content


@CODINGS
def test_a_body_may_have_as_many_bytes_as_allowed(coding):
    body = WRITERS[coding](bytes(1000))
    assert decompress(body, coding, 1000) == bytes(1000)
    with pytest.raises(ContentTooLarge, match="more than the 999 bytes allowed when it is decompressed"):
        decompress(body, coding, 999)


@CODINGS
def test_a_bomb_costs_no_more_than_the_largest_body(coding):
    bomb = WRITERS[coding](bytes(2**28))
    start = time.process_time()
    with pytest.raises(ContentTooLarge):
        decompress(bomb, coding, 2**20)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_many_members_are_refused(coding):
    with pytest.raises(ContentTooLarge, match=f"more than {MAX_PIECES} members"):
        decompress(WRITERS[coding](b"") * (MAX_PIECES + 1), coding, 2**20)


def test_a_large_window_is_refused():
    options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=options)
    body = compressor.compress(b"a") + compressor.flush()
    with pytest.raises(BadRequest, match="not zstd that can be read"):
        decompress(body, "zstd", 2**30)


@CODINGS
@given(data=st.data())
def test_damaged_bodies_are_refused(coding, data):
    body = bytearray(WRITERS[coding](b"an image" * 20))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    length = data.draw(st.integers(1, len(body)))
    with suppress(BadRequest, ContentTooLarge):
        decompress(bytes(body[:length]), coding, 500)


@CODINGS
def test_a_truncated_body_is_refused(coding):
    with pytest.raises(BadRequest, match=f"the body is not {coding} that can be read: it ends before its data do"):
        decompress(WRITERS[coding](b"an image")[:-1], coding, 500)


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        (b"gzip, deflate", "gzip"),
        (b"gzip, deflate, br, zstd", "zstd"),
        (b"GZIP;q=0.5, zstd;q=0.4", "gzip"),
        (b"gzip;q=0", ""),
        (b"identity", ""),
        (b"*", ""),
        (b"", ""),
        (b"gzip;q=x", ""),
        (b"zstd ; q=1.0 , gzip", "zstd"),
        (b"\xff" * 50, ""),
    ],
)
def test_the_preferred_coding_is_chosen(accept, coding):
    assert accepted_coding(accept) == coding


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_compression_is_left_out_where_it_saves_little(coding):
    numbers = np.random.default_rng(0).normal(size=50_000).astype(np.float32)
    assert compress(numbers.tobytes(), coding) is None
    text = str(numbers.tolist()).encode()
    packed = compress(text, coding)
    assert len(packed) < 0.6 * len(text)
    assert decompress(packed, coding, len(text)) == text
