"""Raw tensors: the bits of torch in every data type, and a sentence for each claim that is wrong."""

import math

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from app.codecs.tensors import DTYPES, INTEGERS, TensorType, read_tensor, tensor_type, write_tensor
from app.errors import BadRequest, UnprocessableContent

FLOATS = tuple(name for name in DTYPES if name not in INTEGERS)
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)
ANY_SHAPE = st.lists(st.integers(-(2**70), 2**70) | st.integers(-1, 5), max_size=10)


def torch_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@given(dtype=st.sampled_from(FLOATS), shape=SHAPES, seed=st.integers(0, 2**32))
def test_floats_have_the_bits_of_torch_in_both_directions(dtype, shape, seed):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 100
    expected = values.to(getattr(torch, dtype))
    written = write_tensor(values.numpy(), dtype)
    assert written == torch_bytes(expected.flatten())
    read = read_tensor(written, tensor_type(dtype, shape))
    assert read.shape == shape
    assert (read.astype(np.float32) == expected.float().numpy()).all()


@given(dtype=st.sampled_from(INTEGERS), shape=SHAPES, data=st.data())
def test_integers_are_read_and_written_as_they_are(dtype, shape, data):
    low, high = (0, 255) if dtype == "uint8" else (-(2**63), 2**63 - 1)
    count = math.prod(shape)
    values = np.array(data.draw(st.lists(st.integers(low, high), min_size=count, max_size=count)), dtype)
    tensor = values.reshape(shape)
    assert (read_tensor(write_tensor(tensor, dtype), TensorType(dtype, shape)) == tensor).all()


@given(dtype=st.sampled_from([*DTYPES, "float64", "", "x" * 1000]), shape=ANY_SHAPE, data=st.binary(max_size=64))
def test_any_type_and_any_bytes_give_a_tensor_or_a_short_error(dtype, shape, data):
    try:
        tensor = read_tensor(data, tensor_type(dtype, shape))
    except (BadRequest, UnprocessableContent) as error:
        length = len(error.detail)
    else:
        length = 10
        assert (tensor.nbytes, tensor.shape) == (len(data), tuple(shape))
    assert 10 <= length < 400


@pytest.mark.parametrize(
    ("dtype", "shape", "sentence"),
    [
        ("float8", [1], "dtype: expected uint8, int64, float16, bfloat16, float32, got 'float8'"),
        ("float32", [], "shape: expected 1 to 8 dimensions, got 0"),
        ("float32", [1] * 9, "shape: expected 1 to 8 dimensions, got 9"),
        ("float32", [4, -1], "shape: expected dimensions from 1 to 2147483647, got -1"),
        ("float32", [0, 4], "shape: expected dimensions from 1 to 2147483647, got 0"),
        ("float32", [2**31], "shape: expected dimensions from 1 to 2147483647, got 2147483648"),
        ("float32", [10**4000], "shape: expected dimensions from 1 to 2147483647, got a number far beyond"),
    ],
)
def test_an_invalid_type_is_refused_by_name(dtype, shape, sentence):
    with pytest.raises(UnprocessableContent) as refused:
        tensor_type(dtype, shape)
    assert refused.value.detail == sentence
    with pytest.raises(UnprocessableContent, match=r"^inputs\[2\]\."):
        tensor_type(dtype, shape, "inputs[2].")


@pytest.mark.parametrize(("shape", "expected"), [((2, 3), 24), ((2**31 - 1,) * 8, 4 * (2**31 - 1) ** 8)])
def test_another_number_of_bytes_is_refused_also_where_the_product_is_huge(shape, expected):
    with pytest.raises(BadRequest) as refused:
        read_tensor(b"1234567", tensor_type("float32", shape))
    assert refused.value.detail == f"the body: expected {expected} bytes of float32 {list(shape)}, got 7"


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_number_that_is_not_finite_is_named(dtype, value):
    tensor = np.zeros((2, 3, 4), np.float32)
    tensor[1, 2, 0], tensor[1, 2, 3] = value, math.nan
    data = tensor.astype(DTYPES[dtype]).tobytes()
    with pytest.raises(UnprocessableContent) as refused:
        read_tensor(data, tensor_type(dtype, tensor.shape), "latents")
    assert refused.value.detail == f"latents[1][2][0]: expected a finite number, got {value}"


@pytest.mark.parametrize(("value", "dtype"), [(7e4, "float16"), (3.4e38, "bfloat16")])
def test_numbers_that_overflow_are_refused_instead_of_written_as_infinity(value, dtype):
    with pytest.raises(UnprocessableContent, match=f"numbers that {dtype} cannot hold"):
        write_tensor(np.array([1, value], np.float32), dtype)


def test_reading_makes_no_copy():
    data = np.arange(6, dtype=ml_dtypes.bfloat16).tobytes()
    tensor = read_tensor(memoryview(data), tensor_type("bfloat16", (2, 3)))
    assert not tensor.flags.writeable
    assert np.shares_memory(tensor, np.frombuffer(data, np.uint8))
