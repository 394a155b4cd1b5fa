"""Arrays are read from .npy files unchanged, and inconsistent files are refused."""

import contextlib
import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from app.codecs.images import write_npy
from app.codecs.npy import MAX_HEADER_BYTES, Header, read_array, read_header
from app.errors import BadRequest


def read_npy(body: bytes) -> np.ndarray:
    return read_array(body, read_header(body))


@settings(max_examples=60)
@given(arrays(st.sampled_from((np.uint8, np.float32, ">f4", "<f8", ">f8")), array_shapes(max_side=5)), st.booleans())
def test_an_array_of_any_order_is_read_unchanged(array, fortran):
    came = read_npy(write_npy(np.asfortranarray(array) if fortran else array))
    assert came.dtype.isnative
    assert came.flags.writeable
    np.testing.assert_array_equal(came, array)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_npy_is_read(version):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.arange(6).reshape(2, 3), version=version)
    assert np.array_equal(read_npy(stream.getvalue()), [[0, 1, 2], [3, 4, 5]])


def npy(header: str | bytes, data: bytes = bytes(64), version: tuple[int, int] = (1, 0)) -> bytes:
    text = header if isinstance(header, bytes) else header.encode()
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + data


def described(shape: str, descr: str = "'|u1'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x93NUMPY",
        b"no array at all",
        npy(described("(1, 8, 8)"), bytes(63)),
        npy(described("(1, 8, 8)"), bytes(65)),
        npy(described("(-1, 8, 8)")),
        npy(described("(-1, 8, -8)")),
        npy(described("(True, 8, 8)")),
        npy(described(f"({10**9}, {10**9})")),
        npy(described(f"(0, {10**30})"), b""),
        npy(described("(9" + "9" * 4000 + ", 9" + "9" * 4000 + ")")),
        npy(described("(1, 8, 8)", "'|V0'"), b""),
        npy(described("(1, 8, 8)", "'|O'"), bytes(512)),
        npy(described("(1, 8, 8)", "[('a', '|O')]"), bytes(512)),
        npy(described("(1,)", "('|u1', (8, 8))")),
        npy(described("(1, 8, 8)", "'no type'")),
        npy("{[]: 1}"),
        npy("{1: 1, 'a': 2}"),
        npy("{'descr': (\n"),
        npy("-" * 9000 + "1"),
        npy(bytes(20_000), version=(2, 0)),
        npy(described("(1, 8, 8)"), version=(9, 0))[:70],
    ],
)
def test_an_inconsistent_npy_file_is_refused(body):
    with pytest.raises(BadRequest):
        read_npy(body)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   \n", ("float32", (2, 3), False)),
        ("{'shape':(2,),'fortran_order':True,'descr':'>f2'}", ("float16", (2,), True)),
        (' { "descr" : "|u1" , "fortran_order" : False , "shape" : ( 2 ,3) }', ("uint8", (2, 3), False)),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (2L, 3L)}", ("float64", (2, 3), False)),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': ()}", ("float64", (), False)),
        ("{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (2,)}", ("another data type", (2,), False)),
        (
            "{'descr': [('a', '<f4'), ('b', '|u1')], 'fortran_order': False, 'shape': (2,)}",
            ("another data type", (2,), False),
        ),
    ],
)
def test_headers_of_all_npy_writers_are_read(header, expected):
    read = read_header(npy(header))
    assert isinstance(read, Header)
    assert (read.type_name, read.shape, read.is_fortran) == expected


@pytest.mark.parametrize(
    "unit", ["[", "(", "{", "-", "'", " ", "{'descr':", "'shape': (1,), ", "[[", "(1,", "9", "\0", "lambda:"]
)
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("size", [MAX_HEADER_BYTES, 60_000])
def test_a_header_that_would_be_slow_to_evaluate_is_refused(unit, version, size):
    with pytest.raises(BadRequest, match=r"\.npy"):
        read_header(npy(unit * (size // len(unit)), version=version))


def test_a_header_over_the_limit_is_refused_by_its_declared_length():
    with pytest.raises(BadRequest, match="a header of at most 1024 bytes"):
        read_header(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{")


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from(["'descr'", "'shape'", ":", "{", "}", "(", "2", ",", ")", "'<f4'", "False", "["])).map(
        "".join
    )
)
def test_any_header_is_read_or_refused(text):
    with contextlib.suppress(BadRequest):
        assert len(read_header(npy(text)).shape) >= 0


def test_an_npy_file_never_reaches_pickle():
    stream = io.BytesIO()
    np.save(stream, np.array([{"an": "object"}]), allow_pickle=True)
    with pytest.raises(BadRequest):
        read_npy(stream.getvalue())


@settings(max_examples=250)
@given(st.data())
def test_a_damaged_npy_file_is_read_or_refused(data):
    damaged = bytearray(write_npy(np.arange(300, dtype=np.uint8)))
    for place in data.draw(st.lists(st.integers(0, 140), min_size=1, max_size=4)):
        damaged[place] = data.draw(st.integers(0, 255))
    kept = bytes(damaged[: data.draw(st.integers(100, len(damaged)))])
    with contextlib.suppress(BadRequest):
        assert read_npy(kept).nbytes <= len(kept)
