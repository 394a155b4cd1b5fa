"""Reader of .npy files in two steps: the header, by which a client's array can be refused, and then the numbers.

The format is NEP 1: a magic string, a version, and a header that is a Python literal of three keys. The header is
matched, never evaluated, so that no header takes longer than its bytes.
"""

import math
import re
from typing import NamedTuple

import numpy as np

from app.errors import BadRequest

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 1024
"""Bytes of a header. numpy writes 118 for an array of up to four dimensions, and pads to a multiple of 64."""

_VALUE = rb"(?:'[^']*+'|\"[^\"]*+\"|\[[^\]]*+\]|True|False|\([0-9L, ]*+\))"
_KEY = rb"['\"](descr|fortran_order|shape)['\"]\s*+:\s*+"
_ITEM = rb"\s*+" + _KEY.replace(b"(", b"(?:") + _VALUE + rb"\s*+"
_HEADER = re.compile(rb"\s*+\{" + _ITEM + rb"," + _ITEM + rb"," + _ITEM + rb"(?:,\s*+)?\}\s*+")
_PAIR = re.compile(_KEY + rb"(" + _VALUE + rb")")
_TYPE = re.compile(rb"['\"]([<>=|]?[?biufcOSUVMm][0-9]{0,4})['\"]")
_SHAPE = re.compile(rb"\((?: *[0-9]{1,18}L? *,)*(?: *[0-9]{1,18}L?)? *\)")
_NUMBER = re.compile(rb"[0-9]+")


class Header(NamedTuple):
    """The header of an .npy file; `dtype` is None for structured and other types that are not numbers."""

    dtype: np.dtype | None
    shape: tuple[int, ...]
    is_fortran: bool
    offset: int

    @property
    def type_name(self) -> str:
        """Return the name of the data type without its byte order: `float32`."""
        return "another data type" if self.dtype is None else self.dtype.name

    def __str__(self) -> str:
        return f"{self.type_name} {list(self.shape)}"


def read_header(body: bytes) -> Header:
    """Read the header of an .npy file of version 1, 2 or 3; raises `BadRequest` for one that numpy does not write."""
    version, width = body[6:8], 2 if body[6:7] == b"\x01" else 4
    start = 8 + width
    length = int.from_bytes(body[8:start], "little")
    if (
        not body.startswith(MAGIC)
        or version not in (b"\x01\x00", b"\x02\x00", b"\x03\x00")
        or length > MAX_HEADER_BYTES
    ):
        raise _malformed(f"its magic string, its version, and a header of at most {MAX_HEADER_BYTES} bytes")
    text = body[start : start + length]
    pairs = dict(_PAIR.findall(text)) if _HEADER.fullmatch(text) else {}
    shape = pairs.get(b"shape", b"")
    if len(pairs) < 3 or not _SHAPE.fullmatch(shape) or pairs[b"fortran_order"] not in (b"True", b"False"):
        raise _malformed("a header such as {'descr': '<f4', 'fortran_order': False, 'shape': (2, 32)}")
    dimensions = tuple(map(int, _NUMBER.findall(shape)))
    return Header(_dtype(pairs[b"descr"]), dimensions, pairs[b"fortran_order"] == b"True", start + length)


def read_array(body: bytes, header: Header) -> np.ndarray:
    """Read the numbers in native byte order; raises `BadRequest` if their number is not that of the header."""
    if header.dtype is None or header.dtype.hasobject or not header.dtype.itemsize:
        raise _malformed("plain numbers")
    promised = math.prod(header.shape) * header.dtype.itemsize
    if len(body) - header.offset != promised:
        raise _malformed(f"{promised} bytes of numbers as its header promises, got {len(body) - header.offset}")
    numbers = np.frombuffer(body, header.dtype, offset=header.offset).astype(header.dtype.newbyteorder("="))
    try:
        return numbers.reshape(header.shape, order="F" if header.is_fortran else "C")
    except ValueError:
        raise _malformed("a shape that an array can have") from None


def _dtype(literal: bytes) -> np.dtype | None:
    if literal.startswith(b"["):
        return None
    found = _TYPE.fullmatch(literal)
    try:
        return np.dtype(found[1].decode()) if found else None
    except TypeError:
        raise _malformed("a data type that numpy knows") from None


def _malformed(expected: str) -> BadRequest:
    return BadRequest(f"the body is not an .npy file that can be read: expected {expected}")
