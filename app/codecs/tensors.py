"""Raw tensors: little-endian numbers in row-major order, with data type and shape beside the bytes.

The stated type of a tensor is checked before the bytes are looked at. No step takes more than linear time, and
reading makes no copy.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import ml_dtypes
import numpy as np

from app.errors import BadRequest, UnprocessableContent
from app.validation import quoted

DTYPES: Mapping[str, np.dtype] = MappingProxyType(
    {
        "uint8": np.dtype(np.uint8),
        "int64": np.dtype("<i8"),
        "float16": np.dtype("<f2"),
        "bfloat16": np.dtype(ml_dtypes.bfloat16),
        "float32": np.dtype("<f4"),
    }
)
"""The data types of tensors by the names that torch and numpy use."""

INTEGERS = ("uint8", "int64")

MAX_DIMENSIONS = 8
MAX_SIDE = 2**31 - 1
"""Largest dimension, which bounds the digits of their product too."""


class TensorType(NamedTuple):
    """The data type and the shape of a tensor, as `tensor_type` has checked them."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def values(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.values * DTYPES[self.dtype].itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def tensor_type(dtype: str, shape: Sequence[int], where: str = "") -> TensorType:
    """Check the data type and the shape of a tensor; `where` begins the names of both in an error.

    Raises `UnprocessableContent` for a type that is not in `DTYPES`, more than `MAX_DIMENSIONS`, and a dimension that
    is not from 1 to `MAX_SIDE`.
    """
    if dtype not in DTYPES:
        raise UnprocessableContent(f"{where}dtype: expected {', '.join(DTYPES)}, got {quoted(dtype)}")
    if not 1 <= len(shape) <= MAX_DIMENSIONS:
        raise UnprocessableContent(f"{where}shape: expected 1 to {MAX_DIMENSIONS} dimensions, got {len(shape)}")
    for side in shape:
        if not 1 <= side <= MAX_SIDE:
            got = side if abs(side) <= 10 * MAX_SIDE else "a number far beyond"
            raise UnprocessableContent(f"{where}shape: expected dimensions from 1 to {MAX_SIDE}, got {got}")
    return TensorType(dtype, tuple(shape))


def read_tensor(data: bytes | memoryview, kind: TensorType, where: str = "") -> np.ndarray:
    """Return the numbers of a tensor in its data type: a read-only view of the bytes.

    Raises `BadRequest` for another number of bytes than the type has, `UnprocessableContent` for NaN and infinity,
    named by their index in `where`.
    """
    if len(data) != kind.size:
        raise BadRequest(f"{where or 'the body'}: expected {kind.size} bytes of {kind}, got {len(data)}")
    tensor = np.frombuffer(data, DTYPES[kind.dtype]).reshape(kind.shape)
    if kind.dtype not in INTEGERS:
        require_finite(tensor, where or "the tensor")
    return tensor


def write_tensor(values: np.ndarray, dtype: str) -> bytes:
    """Write numbers in a data type, rounded to its nearest values.

    Raises `UnprocessableContent` for numbers that overflow float16 or bfloat16.
    """
    with np.errstate(over="ignore"):
        converted = values.astype(DTYPES[dtype], copy=False)
    if converted.dtype != values.dtype and dtype not in INTEGERS and not np.isfinite(converted).all():
        raise UnprocessableContent(f"the result has numbers that {dtype} cannot hold; send and ask for float32")
    return converted.tobytes()


def require_finite(tensor: np.ndarray, where: str) -> None:
    """Raise `UnprocessableContent` for the first NaN or infinity of a tensor, named by its index in `where`."""
    finite = np.isfinite(tensor)
    if not finite.all():
        index = np.unravel_index(int(np.argmin(finite)), finite.shape)
        place = "".join(f"[{step}]" for step in index)
        raise UnprocessableContent(f"{where}{place}: expected a finite number, got {float(tensor[index])}")
