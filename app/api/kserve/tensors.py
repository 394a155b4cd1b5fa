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

from app.api.kserve.schemas import RequestInput
from app.codecs import tensors
from app.codecs.base64_text import decode_base64
from app.errors import UnprocessableContent
from app.validation import describe_value, quoted, require_items

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

INTEGERS = ("UINT8", "INT64")


class Tensor(NamedTuple):
    """An input tensor: its binary elements before they are read, or those of JSON.

    `where` is the location of the input in the request.
    """

    where: str
    name: str
    datatype: str
    shape: tuple[int, ...]
    elements: memoryview | np.ndarray | Sequence[bytes]

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The type of the numbers that `read_numbers` returns; None for byte strings."""
        return self.elements.dtype if isinstance(self.elements, np.ndarray) else DTYPES.get(self.datatype)

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)


def input_tensors(inputs: Sequence[RequestInput], binary: memoryview, max_items: int) -> list[Tensor]:
    """Return the input tensors of a request; `binary` are the bytes after the JSON.

    Raises `UnprocessableContent` for elements in JSON that do not fit their data type and shape, and unless the sizes
    of the binary inputs add up to these bytes, `ContentTooLarge` for more byte strings of JSON than items.
    """
    read, start = [], 0
    for index, sent in enumerate(inputs):
        where = f"inputs[{index}]"
        _require_datatype(sent.datatype, where)
        size = _binary_size(sent, where)
        elements = _elements_of_json(sent, where, max_items) if size is None else binary[start : start + size]
        read.append(Tensor(where, sent.name, sent.datatype, tuple(sent.shape), elements))
        start += size or 0
    if start != len(binary):
        raise UnprocessableContent(
            f"the body: expected {start} bytes after the JSON, the sum of {BINARY_SIZE}, got {len(binary)}"
        )
    return read


def _require_datatype(datatype: str, where: str) -> None:
    if datatype != BYTES and datatype not in DTYPES:
        expected = ", ".join(DTYPES)
        raise UnprocessableContent(f"{where}.datatype: expected {expected} or {BYTES}, got {quoted(datatype)}")


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
    """Return the elements of a tensor of numbers in its shape; floats of JSON are float64.

    Raises `UnprocessableContent` for another number of bytes than the shape has.
    """
    if not isinstance(tensor.elements, memoryview):
        return np.asarray(tensor.elements)
    dtype = DTYPES[tensor.datatype]
    expected = tensor.size * dtype.itemsize
    if len(tensor.elements) != expected:
        what = f"{expected} bytes for {tensor.datatype} {list(tensor.shape)}"
        raise UnprocessableContent(f"{tensor.where}: expected {what}, got {len(tensor.elements)}")
    return np.frombuffer(tensor.elements, dtype).reshape(tensor.shape)


def read_byte_strings(tensor: Tensor) -> list[bytes]:
    """Return the elements of a tensor of byte strings; raises `UnprocessableContent` for another number of them."""
    if isinstance(tensor.elements, memoryview):
        return [*_byte_strings(tensor, tensor.elements)]
    return [*tensor.elements]


def _byte_strings(tensor: Tensor, elements: memoryview) -> Iterator[bytes]:
    start = 0
    for index in range(tensor.size):
        left = len(elements) - start
        length = LENGTH.unpack_from(elements, start)[0] if left >= LENGTH.size else None
        if length is None or length > left - LENGTH.size:
            raise _too_short(f"{tensor.where}: element {index}", left, length)
        start += LENGTH.size + length
        yield bytes(elements[start - length : start])
    if start != len(elements):
        more = len(elements) - start
        raise UnprocessableContent(
            f"{tensor.where}: expected {tensor.size} byte strings of its shape, got {more} bytes more"
        )


def _too_short(where: str, left: int, length: int | None) -> UnprocessableContent:
    expected = "the 4 bytes of a length" if length is None else f"{length} bytes after the length"
    got = left if length is None else left - LENGTH.size
    return UnprocessableContent(f"{where}: expected {expected}, got {got}")


def _elements_of_json(sent: RequestInput, where: str, max_items: int) -> np.ndarray | list[bytes]:
    """Convert the `data` of an input: to numbers in its shape, or to byte strings."""
    if not isinstance(sent.data, list):
        got = describe_value(sent.data)
        raise UnprocessableContent(
            f"{where}: expected an array in data, or {BINARY_SIZE} in the parameters, got {got} and no {BINARY_SIZE}"
        )
    if sent.datatype == BYTES:
        require_items(prod(sent.shape), max_items)  # before any is decoded
    elements = _flat(sent.data, sent.shape, f"{where}.data")
    if sent.datatype == BYTES:
        _require_types(elements, {str}, "base64", f"{where}.data")
        return [decode_base64(text, index) for index, text in enumerate(elements)]
    return _numbers_of_json(elements, sent.datatype, f"{where}.data").reshape(sent.shape)


def _numbers_of_json(elements: Sequence[Any], datatype: str, where: str) -> np.ndarray:
    if datatype not in INTEGERS:
        _require_types(elements, {int, float}, "a number", where)
        return np.array(elements, np.float64)
    _require_types(elements, {int}, "an integer", where)
    try:
        return np.array(elements, DTYPES[datatype])
    except OverflowError:
        raise UnprocessableContent(f"{where}: expected numbers in the range of {datatype}") from None


def _require_types(elements: Sequence[Any], types: set[type], expected: str, where: str) -> None:
    """Refuse elements of another type; a boolean is no integer."""
    if {*map(type, elements)} <= types:
        return
    index, wrong = next((index, value) for index, value in enumerate(elements) if type(value) not in types)
    raise UnprocessableContent(f"{where}: element {index}: expected {expected}, got {describe_value(wrong)}")


def _flat(elements: Sequence[Any], shape: Sequence[int], where: str) -> Sequence[Any]:
    """Return the elements of nested arrays, which must have the shape of the tensor, or of a flat one."""
    lengths = [len(elements)]
    while elements and isinstance(elements[0], list):
        inner = {*map(len, elements)} if {*map(type, elements)} == {list} else set()
        if len(inner) != 1:
            raise UnprocessableContent(f"{where}: expected nested arrays of equal lengths")
        lengths += inner
        elements = [*chain.from_iterable(elements)]
    if lengths not in ([prod(shape)], [*shape]):
        expected = f"{prod(shape)} elements, flat or nested as the shape {[*shape]}"
        got = lengths[0] if len(lengths) == 1 else lengths[: tensors.MAX_DIMENSIONS]
        raise UnprocessableContent(f"{where}: expected {expected}, got {got}")
    return elements
