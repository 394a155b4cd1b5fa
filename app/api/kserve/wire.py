"""Requests and responses on the wire: JSON, and the binary elements of tensors after it.

Source: Triton's binary tensor data extension. Where binary elements follow, `Inference-Header-Content-Length` is the
length of the JSON. They are in the order of the tensors in the JSON.
"""

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from app.api.kserve.schemas import InferenceRequest
from app.api.kserve.tensors import BINARY_SIZE, DTYPES, LENGTH
from app.codecs.json_bytes import dump
from app.errors import BadRequest, ContentTooLarge, UnprocessableContent
from app.validation import MAX_VALUES, parse_json, quoted

JSON_LENGTH = "Inference-Header-Content-Length"

MAX_ARRAYS = 2**16
"""Arrays in the JSON of a request; those of nested elements take some 1 us each."""

MAX_NAMES = 2**8
"""Names in the JSON of a request besides those of its items. A colon in the text of an item counts as one."""

HALVES = ("FP16", "BF16")
"""Floats of 16 bits."""

MAX_NUMBERS_AT_ONCE = 2**16
"""Numbers that are written in one step, which holds the interpreter's lock."""

Checked = Callable[[Iterable[int]], Iterable[int]]
"""Wraps the steps of writing a response; may raise to end the work."""


def json_length(headers: Mapping[bytes, bytes], body: bytes) -> int:
    """Return the length of the JSON at the start of a body; raises `BadRequest` for a header that is no such length."""
    sent = headers.get(JSON_LENGTH.lower().encode())
    if sent is None:
        return len(body)
    if not (sent.isdigit() and len(sent) <= 20 and int(sent) <= len(body)):
        got = quoted(sent.decode("latin-1"))
        raise BadRequest(f"{JSON_LENGTH}: expected the length of the JSON, up to {len(body)} bytes, got {got}")
    return int(sent)


def parse_request(json: bytes, max_items: int) -> InferenceRequest:
    """Parse the JSON of a request; raises what `parse_json` raises."""
    return parse_json(
        InferenceRequest, json, max_values=MAX_VALUES, max_names=MAX_NAMES + max_items, max_arrays=MAX_ARRAYS
    )


class Output(NamedTuple):
    """An output tensor: an array of its shape, or byte strings. Float32 is converted to the type that is sent."""

    name: str
    datatype: str
    elements: np.ndarray | Sequence[bytes]
    is_binary: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return self.elements.shape if isinstance(self.elements, np.ndarray) else (len(self.elements),)

    @property
    def binary_size(self) -> int:
        """The size of the binary elements, in bytes."""
        if isinstance(self.elements, np.ndarray):
            return self.elements.size * DTYPES[self.datatype].itemsize
        return sum(LENGTH.size + len(element) for element in self.elements)


def write_response(
    about: Mapping[str, Any], outputs: Sequence[Output], checked: Checked = iter
) -> tuple[bytes, int | None]:
    """Write a response with the fields `about` it; also returns the length of the JSON if binary elements follow.

    Raises `ContentTooLarge` for more than `MAX_VALUES` numbers in JSON.
    """
    _require_few_numbers(outputs)
    stream = io.BytesIO()
    stream.write(dump(about)[:-1] + b',"outputs":[')
    for index, output in enumerate(outputs):
        stream.write(b"," * (index > 0) + dump(_described(output))[:-1])
        if not output.is_binary:
            stream.write(b',"data":[')
            for number, piece in enumerate(_json_pieces(output, checked)):
                stream.write(b"," * (number > 0) + piece)
            stream.write(b"]")
        stream.write(b"}")
    stream.write(b"]}")
    length = stream.tell() if any(output.is_binary for output in outputs) else None
    for output in outputs:
        if output.is_binary:
            stream.writelines(_binary_pieces(output, checked))
    return stream.getvalue(), length


def _require_few_numbers(outputs: Sequence[Output]) -> None:
    in_json = (output.elements for output in outputs if not output.is_binary)
    count = sum(elements.size for elements in in_json if isinstance(elements, np.ndarray))
    if count > MAX_VALUES:
        raise ContentTooLarge(
            f"outputs: {count} numbers are more than the {MAX_VALUES} that JSON may have; ask for binary_data"
        )


def _described(output: Output) -> dict[str, Any]:
    binary = {"parameters": {BINARY_SIZE: output.binary_size}} if output.is_binary else {}
    return {"name": output.name, "datatype": output.datatype, "shape": output.shape, **binary}


def _json_pieces(output: Output, checked: Checked) -> Iterator[bytes]:
    """Yield the elements in JSON without brackets: numbers, many at once, or base64 strings one by one."""
    if isinstance(output.elements, np.ndarray):
        for rows in _rows(output.elements, checked):
            yield dump(_rounded(rows, output.datatype).reshape(-1))[1:-1]
        return
    for index in checked(range(len(output.elements))):
        yield b'"' + base64.b64encode(output.elements[index]) + b'"'


def _binary_pieces(output: Output, checked: Checked) -> Iterator[Any]:
    """Yield the binary elements: contiguous arrays, or byte strings with their lengths before them."""
    if isinstance(output.elements, np.ndarray):
        for rows in _rows(output.elements, checked):
            yield _converted(rows, output.datatype)
        return
    for index in checked(range(len(output.elements))):
        element = output.elements[index]
        yield LENGTH.pack(len(element))
        yield element


def _rows(array: np.ndarray, checked: Checked) -> Iterator[np.ndarray]:
    """Yield the rows of an array, about `MAX_NUMBERS_AT_ONCE` numbers at once."""
    at_once = max(1, MAX_NUMBERS_AT_ONCE * len(array) // max(1, array.size))
    for start in checked(range(0, len(array), at_once)):
        yield array[start : start + at_once]


def _converted(array: np.ndarray, datatype: str) -> np.ndarray:
    """Convert an array to the contiguous binary form of a data type.

    Raises `UnprocessableContent` for numbers that overflow a float of 16 bits.
    """
    dtype = DTYPES[datatype]
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(array, dtype)
    if datatype in HALVES and not np.isfinite(converted).all():
        raise UnprocessableContent(f"parameters.datatype: the result has numbers that {datatype} cannot hold")
    return converted


def _rounded(array: np.ndarray, datatype: str) -> np.ndarray:
    """Round float32 to the numbers that a data type has."""
    return _converted(array, datatype).astype(np.float32) if datatype in HALVES else np.ascontiguousarray(array)
