"""Tensors keep their elements on the wire, in JSON and in binary, and bodies that are inconsistent are refused."""

import base64
import json
import struct
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from app.api.kserve.schemas import InferenceRequest
from app.api.kserve.tensors import (
    DTYPES,
    input_tensors,
    read_byte_strings,
    read_numbers,
)
from app.api.kserve.wire import JSON_LENGTH, Output, json_length, parse_request, write_response
from app.errors import BadRequest, ContentTooLarge, ServiceError, UnprocessableContent

NUMBERS = st.sampled_from(("UINT8", "INT64", "FP16", "FP32", "FP64")).flatmap(
    lambda name: st.tuples(
        st.just(name), arrays(DTYPES[name], array_shapes(max_dims=4, max_side=4), elements=_finite(name))
    )
)


def _finite(name: str) -> Any:
    if name in ("UINT8", "INT64"):
        return None
    return {"allow_nan": False, "allow_infinity": False}


ABOUT = {"model_name": "m"}


def sent(datatype: str, shape: Any, **fields: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": shape, **fields}


def binary(datatype: str, shape: Any, size: Any) -> dict[str, Any]:
    return sent(datatype, shape, parameters={"binary_data_size": size})


def tensors(*inputs: dict[str, Any], after: bytes = b"") -> list[Any]:
    """The tensors of a request with these inputs, and these bytes after the JSON."""
    return input_tensors(parse_request(json.dumps({"inputs": inputs}).encode(), 64).inputs, memoryview(after), 64)


@given(NUMBERS)
def test_binary_numbers_arrive_unchanged(case):
    datatype, array = case
    (tensor,) = tensors(binary(datatype, array.shape, array.nbytes), after=array.tobytes())
    np.testing.assert_array_equal(read_numbers(tensor), array)


@given(NUMBERS, st.booleans())
def test_numbers_of_json_arrive_unchanged_flat_or_nested(case, nested):
    datatype, array = case
    (tensor,) = tensors(sent(datatype, array.shape, data=(array if nested else array.ravel()).tolist()))
    np.testing.assert_array_equal(read_numbers(tensor), array)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5))
def test_byte_strings_arrive_unchanged(contents):
    data = b"".join(struct.pack("<I", len(content)) + content for content in contents)
    texts = [base64.b64encode(content).decode() for content in contents]
    first, second = tensors(
        binary("BYTES", [len(contents)], len(data)), sent("BYTES", [len(contents), 1], data=texts), after=data
    )
    assert read_byte_strings(first) == read_byte_strings(second) == contents


def test_several_binary_tensors_follow_the_json_in_order():
    after = np.arange(3, dtype="<f4").tobytes() + bytes([7, 8])
    floats, _, integers = tensors(
        binary("FP32", [3], 12), sent("INT64", [1], data=[5]), binary("UINT8", [2], 2), after=after
    )
    assert read_numbers(floats).tolist() == [0, 1, 2]
    assert read_numbers(integers).tolist() == [7, 8]


def test_a_binary_bfloat16_is_read():
    values = torch.tensor([1.5, -2.0])
    after = values.bfloat16().view(torch.int16).numpy().tobytes()
    (tensor,) = tensors(binary("BF16", [2], 4), after=after)
    assert read_numbers(tensor).tolist() == [1.5, -2]


@pytest.mark.parametrize(
    ("inputs", "after", "message"),
    [
        ([sent("FP32", [2])], b"", "inputs[0]: expected an array in data, or binary_data_size"),
        ([sent("FP32", [2], data={})], b"", "inputs[0]: expected an array in data"),
        ([binary("FP32", [2], 8)], bytes(7), "the body: expected 8 bytes after the JSON"),
        ([binary("FP32", [2], 8)], bytes(9), "the body: expected 8 bytes after the JSON"),
        ([binary("FP32", [2], -8)], b"", "binary_data_size: expected a number of bytes, got -8"),
        ([binary("FP32", [2], True)], b"", "binary_data_size: expected a number of bytes, got true"),
        ([binary("FP32", [2], "8")], bytes(8), "binary_data_size: expected a number of bytes, got '8'"),
        ([{**binary("FP32", [1], 4), "data": [1]}], bytes(4), "expected no data beside it"),
        ([sent("FP32", [1], parameters={"shared_memory_region": "a"})], b"", "shared memory is not supported"),
        ([binary("FP32", [3], 8)], bytes(8), "inputs[0]: expected 12 bytes for FP32 [3], got 8"),
        ([binary("FP32", [2**30, 2**30], 8)], bytes(8), "for FP32 [1073741824, 1073741824], got 8"),
        (
            [binary("FP32", [2**31], 8)],
            bytes(8),
            "inputs[0].shape[0]: expected a number less than or equal to 2147483647",
        ),
        (
            [sent("FP32", [-1], data=[1])],
            b"",
            "inputs[0].shape[0]: expected a number greater than or equal to 1, got -1",
        ),
        ([sent("FP32", [0, 2**30], data=[])], b"", "inputs[0].shape[0]: expected a number greater"),
        ([sent("FP32", [2**64], data=[1])], b"", "inputs[0].shape[0]: expected a valid integer"),
        ([sent("FP32", [1.0], data=[1])], b"", "inputs[0].shape[0]: expected a valid integer, got 1.0"),
        ([sent("FP32", [1] * 9, data=[1])], b"", "inputs[0].shape: expected at most 8 items"),
        ([sent("FP32", [2], data=[1])], b"", "inputs[0].data: expected 2 elements, flat or nested"),
        ([sent("FP32", [2, 2], data=[[1, 2], [3]])], b"", "expected nested arrays of equal lengths"),
        ([sent("FP32", [2, 2], data=[[1, 2], 3])], b"", "expected nested arrays of equal lengths"),
        ([sent("FP32", [2, 2], data=[[1, 2, 3, 4]])], b"", "as the shape [2, 2], got [1, 4]"),
        ([sent("FP32", [2], data=[1, "2"])], b"", "inputs[0].data: element 1: expected a number, got '2'"),
        ([sent("FP32", [2], data=[1, None])], b"", "element 1: expected a number, got null"),
        ([sent("FP32", [2], data=[True, 1])], b"", "element 0: expected a number, got true"),
        ([sent("UINT8", [1], data=[1.0])], b"", "element 0: expected an integer, got 1.0"),
        ([sent("UINT8", [1], data=[256])], b"", "inputs[0].data: expected numbers in the range of UINT8"),
        ([sent("UINT8", [1], data=[-1])], b"", "expected numbers in the range of UINT8"),
        ([sent("INT64", [1], data=[2**63])], b"", "expected numbers in the range of INT64"),
        ([sent("FP32", [1], data=[]) for _ in range(9)], b"", "inputs: expected at most 8 items"),
    ],
)
def test_inconsistent_tensors_are_refused(inputs, after, message):
    with pytest.raises(UnprocessableContent) as refused:
        [*map(read_numbers, tensors(*inputs, after=after))]
    assert message in refused.value.detail


@pytest.mark.parametrize(
    ("shape", "data", "message"),
    [
        ([1], b"", "element 0: expected the 4 bytes of a length, got 0"),
        ([1], b"\1\0\0", "element 0: expected the 4 bytes of a length, got 3"),
        ([1], b"\2\0\0\0a", "element 0: expected 2 bytes after the length, got 1"),
        ([1], b"\xff\xff\xff\xffa", "element 0: expected 4294967295 bytes after the length, got 1"),
        ([2], b"\1\0\0\0a", "element 1: expected the 4 bytes of a length, got 0"),
        ([1], b"\1\0\0\0ab", "expected 1 byte strings of its shape, got 1 bytes more"),
        ([2**30], b"\1\0\0\0a", "element 1: expected the 4 bytes of a length, got 0"),
    ],
)
def test_inconsistent_byte_strings_are_refused(shape, data, message):
    (tensor,) = tensors(binary("BYTES", shape, len(data)), after=data)
    with pytest.raises(UnprocessableContent) as refused:
        read_byte_strings(tensor)
    assert message in refused.value.detail


@given(st.binary(max_size=64))
def test_any_bytes_are_byte_strings_or_refused(data):
    (tensor,) = tensors(binary("BYTES", [2], len(data)), after=data)
    with suppress(UnprocessableContent):
        assert sum(4 + len(content) for content in read_byte_strings(tensor)) == len(data)


@pytest.mark.parametrize(("header", "length"), [(None, 5), (b"0", 0), (b"3", 3), (b"05", 5)])
def test_the_header_has_the_length_of_the_json(header, length):
    headers = {} if header is None else {JSON_LENGTH.lower().encode(): header}
    assert json_length(headers, b"12345") == length


@pytest.mark.parametrize("header", [b"6", b"-1", b"", b"1.0", b"1e0", b"9" * 5000, b"a", b"\xb2"])
def test_a_length_beyond_the_body_or_of_no_digits_is_refused(header):
    with pytest.raises(BadRequest, match="up to 5 bytes"):
        json_length({JSON_LENGTH.lower().encode(): header}, b"12345")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b"[]", 422),
        (b'{"inputs":{}}', 422),
        (b'{"inputs":[[]]}', 422),
        (b'{"inputs":[{"name":1}]}', 422),
        (b'{"id":1}', 422),
        (b'{"id":"' + b"a" * 2000 + b'"}', 422),
        (b"[" * 2000, 400),
        (b'{"inputs":' + b"[" * 70_000, 413),
        (b'{"a":[' + b"1," * (2**20 + 1) + b"1]}", 413),
        (b"{" + b'"a":1,' * 1000 + b'"b":1}', 413),
    ],
)
def test_json_that_is_no_request_is_refused(body, status):
    with pytest.raises(ServiceError) as refused:
        parse_request(body, 64)
    assert refused.value.status == status


def read(body: bytes, length: int | None) -> tuple[dict[str, Any], bytes]:
    """The JSON of a response, and the bytes after it."""
    return json.loads(body[:length]), b"" if length is None else body[length:]


@given(arrays(np.float32, array_shapes(max_dims=3, max_side=4), elements=_finite("FP32")))
def test_a_response_has_the_elements_in_json_or_after_it(array):
    outputs = [Output("a", "FP32", array), Output("b", "FP32", array, is_binary=False)]
    content, after = read(*write_response(ABOUT, outputs))
    first, second = content["outputs"]
    assert content["model_name"] == "m"
    assert first == {
        "name": "a",
        "datatype": "FP32",
        "shape": [*array.shape],
        "parameters": {"binary_data_size": array.nbytes},
    }
    assert after == array.tobytes()
    assert second["shape"] == [*array.shape]
    np.testing.assert_array_equal(np.array(second["data"], np.float32), array.ravel())


def test_a_transposed_array_is_written_in_row_major_order():
    array = np.arange(2 * 300 * 400 * 3, dtype=np.uint8).reshape(2, 3, 300, 400).transpose(0, 2, 3, 1)
    _, after = read(*write_response(ABOUT, [Output("images", "UINT8", array)]))
    assert after == array.tobytes()
    content, _ = read(*write_response(ABOUT, [Output("images", "UINT8", array, is_binary=False)]))
    assert content["outputs"][0]["data"] == array.ravel().tolist()


@pytest.mark.parametrize(("datatype", "dtype"), [("FP16", torch.float16), ("BF16", torch.bfloat16)])
def test_floats_are_rounded_to_16_bits(datatype, dtype):
    array = np.array([0.1, -3.14159, 1e-5], np.float32)
    expected = torch.from_numpy(array).to(dtype)
    content, after = read(
        *write_response(ABOUT, [Output("a", datatype, array), Output("b", datatype, array, is_binary=False)])
    )
    assert after == expected.view(torch.int16).numpy().tobytes()
    assert np.array_equal(np.array(content["outputs"][1]["data"], np.float32), expected.float().numpy())


def test_numbers_beyond_float16_are_refused():
    with pytest.raises(UnprocessableContent, match="numbers that FP16 cannot hold"):
        write_response(ABOUT, [Output("a", "FP16", np.array([7e4], np.float32))])


def test_byte_strings_are_base64_in_json():
    files = [b"first", b""]
    content, after = read(
        *write_response(ABOUT, [Output("a", "BYTES", files), Output("b", "BYTES", files, is_binary=False)])
    )
    assert after == b"\5\0\0\0first\0\0\0\0"
    assert content["outputs"][0]["parameters"] == {"binary_data_size": len(after)}
    assert content["outputs"][1]["data"] == ["Zmlyc3Q=", ""]


def test_more_numbers_than_json_may_have_are_refused():
    with pytest.raises(ContentTooLarge, match="ask for binary_data"):
        write_response(ABOUT, [Output("a", "UINT8", np.zeros((2**20 + 1,), np.uint8), is_binary=False)])


def test_unknown_fields_of_clients_are_ignored():
    assert parse_request(b'{"model_name":"a","inputs":[],"extra":{}}', 8) == InferenceRequest(inputs=[])
