"""Tensors of the Open Inference Protocol: between elements on the wire, and arrays or byte strings.

Binary elements are little-endian and in row-major order; each byte string has its length before it, in four bytes. JSON
has numbers, flat or nested, and byte strings in base64.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from math import prod
from typing import Any, NamedTuple

import numpy as np

from app.api.kserve.schemas import MAX_DIMENSIONS, RequestInput
from app.codecs import tensors
from app.codecs.base64_text import decode_base64
from app.errors import UnprocessableContent
from app.validation import describe_value

BYTES = "BYTES"

DTYPES: Mapping[str, np.dtype[Any]] = {
    "UINT8": tensors.DTYPES["uint8"],
    "INT64": tensors.DTYPES["int64"],
    "FP16": tensors.DTYPES["float16"],
    "BF16": tensors.DTYPES["bfloat16"],
    "FP32": tensors.DTYPES["float32"],
    "FP64": np.dtype("<f8"),
}
"""The types of numbers by the names of the protocol."""

BINARY_SIZE = "binary_data_size"
"""The parameter with the number of bytes of a binary tensor."""

LENGTH = struct.Struct("<I")
"""The length before a byte string."""

_INTEGERS = ("UINT8", "INT64")


class Tensor(NamedTuple):
    """An input tensor before its elements are read: they are binary, or the value of `data` in the JSON.

    `where` is the location of the input in the request.
    """

    where: str
    name: str
    datatype: str
    shape: tuple[int, ...]
    elements: memoryview | list[Any]

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)


def input_tensors(inputs: Sequence[RequestInput], binary: memoryview) -> list[Tensor]:
    """Return the input tensors of a request; `binary` are the bytes after the JSON.

    Raises `UnprocessableContent` unless the sizes of the inputs add up to these bytes.
    """
    read, start = [], 0
    for index, sent in enumerate(inputs):
        where = f"inputs[{index}]"
        size = _binary_size(sent, where)
        if size is None and not isinstance(sent.data, list):
            raise UnprocessableContent(
                f"{where}: expected an array in data, or {BINARY_SIZE} in the parameters, got neither"
            )
        elements = sent.data if size is None else binary[start : start + size]
        read.append(Tensor(where, sent.name, sent.datatype, tuple(sent.shape), elements))
        start += size or 0
    if start != len(binary):
        raise UnprocessableContent(
            f"the body: expected {start} bytes after the JSON, the sum of {BINARY_SIZE}, got {len(binary)}"
        )
    return read


def _binary_size(sent: RequestInput, where: str) -> int | None:
    """Return the number of bytes of a binary input; None if its elements are in the JSON."""
    parameters = sent.parameters or {}
    if "shared_memory_region" in parameters:
        raise UnprocessableContent(f"{where}.parameters.shared_memory_region: shared memory is not supported")
    size = parameters.get(BINARY_SIZE)
    if size is None:
        return None
    location = f"{where}.parameters.{BINARY_SIZE}"
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise UnprocessableContent(f"{location}: expected a number of bytes, got {describe_value(size)}")
    if sent.data is not None:
        raise UnprocessableContent(f"{location}: expected no data beside it, got {describe_value(sent.data)}")
    return size


def read_numbers(tensor: Tensor) -> np.ndarray:
    """Read the elements of a tensor of numbers in its shape; floats of JSON become float64.

    Raises `UnprocessableContent` for another number of elements, and for elements of another type or out of range.
    """
    if isinstance(tensor.elements, list):
        return _numbers_of_json(tensor).reshape(tensor.shape)
    dtype = DTYPES[tensor.datatype]
    expected = tensor.size * dtype.itemsize
    if len(tensor.elements) != expected:
        what = f"{expected} bytes for {tensor.datatype} {list(tensor.shape)}"
        raise UnprocessableContent(f"{tensor.where}: expected {what}, got {len(tensor.elements)}")
    return np.frombuffer(tensor.elements, dtype).reshape(tensor.shape)


def read_byte_strings(tensor: Tensor) -> list[bytes]:
    """Read the elements of a tensor of byte strings; raises `UnprocessableContent` for another number of them."""
    if not isinstance(tensor.elements, list):
        return [*_byte_strings(tensor, tensor.elements)]
    texts = _flat(tensor, tensor.elements)
    _require_types(tensor, texts, {str}, "base64")
    return [decode_base64(text, index) for index, text in enumerate(texts)]


def _byte_strings(tensor: Tensor, elements: memoryview) -> Iterator[bytes]:
    start = 0
    for index in range(tensor.size):
        left = len(elements) - start
        length = LENGTH.unpack_from(elements, start)[0] if left >= LENGTH.size else None
        if length is None or length > left - LENGTH.size:
            raise _too_short(tensor, index, left, length)
        start += LENGTH.size + length
        yield bytes(elements[start - length : start])
    if start != len(elements):
        more = len(elements) - start
        raise UnprocessableContent(
            f"{tensor.where}: expected {tensor.size} byte strings of its shape, got {more} bytes more"
        )


def _too_short(tensor: Tensor, index: int, left: int, length: int | None) -> UnprocessableContent:
    expected = "the 4 bytes of a length" if length is None else f"{length} bytes after the length"
    got = left if length is None else left - LENGTH.size
    return UnprocessableContent(f"{tensor.where}: element {index}: expected {expected}, got {got}")


def _numbers_of_json(tensor: Tensor) -> np.ndarray:
    elements = _flat(tensor, tensor.elements)
    is_integer = tensor.datatype in _INTEGERS
    _require_types(tensor, elements, {int} if is_integer else {int, float}, "an integer" if is_integer else "a number")
    try:
        return np.array(elements, DTYPES[tensor.datatype] if is_integer else np.float64)
    except OverflowError:
        raise UnprocessableContent(f"{tensor.where}.data: expected numbers in the range of {tensor.datatype}") from None


def _require_types(tensor: Tensor, elements: Sequence[Any], types: set[type], expected: str) -> None:
    """Refuse elements of another type; a boolean is no integer."""
    if {*map(type, elements)} <= types:
        return
    index, wrong = next((index, value) for index, value in enumerate(elements) if type(value) not in types)
    raise UnprocessableContent(
        f"{tensor.where}.data: element {index}: expected {expected}, got {describe_value(wrong)}"
    )


def _flat(tensor: Tensor, elements: Sequence[Any]) -> Sequence[Any]:
    """Return the elements of nested arrays, which must have the shape of the tensor, or of a flat one."""
    lengths = [len(elements)]
    while elements and isinstance(elements[0], list):
        inner = {*map(len, elements)} if {*map(type, elements)} == {list} else set()
        if len(inner) != 1:
            raise UnprocessableContent(f"{tensor.where}.data: expected nested arrays of equal lengths")
        lengths += inner
        elements = [*chain.from_iterable(elements)]
    if lengths not in ([tensor.size], [*tensor.shape]):
        expected = f"{tensor.size} elements, flat or nested as its shape {list(tensor.shape)}"
        got = lengths[0] if len(lengths) == 1 else lengths[:MAX_DIMENSIONS]
        raise UnprocessableContent(f"{tensor.where}.data: expected {expected}, got {got}")
    return elements
