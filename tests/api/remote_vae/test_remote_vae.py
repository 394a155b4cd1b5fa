"""The diffusers dialect: forms of answers, sentences for what is wrong, and models with vectors as latents."""

import asyncio
import io
import json
import math
from typing import Any
from urllib.parse import urlencode

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from app.codecs.images import write_npy
from app.http.problems import Problem
from app.main import create_app
from app.settings import Settings
from tests.support.apps import running
from tests.support.diffusers_models import write
from tests.support.models import DIGITS

pytestmark = pytest.mark.anyio

DECODE, ENCODE = "/diffusers/decode", "/diffusers/encode"
LATENTS = np.random.default_rng(0).standard_normal((2, 16, 8, 8), np.float32)
WHOLE = {"shape": [2, 16, 8, 8], "dtype": "float32"}
PACKED = {"shape": [2, 16, 64], "dtype": "float32", "height": 64, "width": 64}
HUGE = 2**31 - 1


@pytest.fixture(scope="module")
async def kl16(tmp_path_factory):
    settings = {"device": "cpu", "threads": 1, "warm_sizes": "64x64", "max_batch_size": 2, "max_image_pixels": 2**14}
    folder = write(tmp_path_factory.mktemp("models") / "kl16", "kl16")
    async with running(create_app(Settings(model=folder, max_items=8, **settings))) as client:
        yield client


async def post(client, path: str, query: dict[str, Any], body: bytes | np.ndarray = b"", **headers: str):
    content = body if isinstance(body, bytes) else body.tobytes()
    return await client.post(f"{path}?{urlencode(query, doseq=True)}", content=content, headers=headers)


def tensor_of(answer) -> np.ndarray:
    assert (answer.status_code, answer.headers["content-type"]) == (200, "tensor/binary"), answer.text
    dtype = np.dtype(getattr(ml_dtypes, answer.headers["dtype"], answer.headers["dtype"]))
    return np.frombuffer(answer.content, dtype).reshape(json.loads(answer.headers["shape"]))


@pytest.mark.parametrize(
    ("query", "accept", "media_type", "shape"),
    [
        ({}, "*/*", "image/jpeg", None),
        ({"image_format": "png"}, "*/*", "image/png", None),
        ({"image_format": "png"}, "image/jpeg", "image/jpeg", None),
        ({"output_type": "pil"}, "image/png, tensor/binary;q=0.5", "image/png", None),
        ({"output_type": "pil"}, "tensor/binary", "tensor/binary", (2, 3, 64, 64)),
        ({"output_type": "pt"}, "*/*", "tensor/binary", (2, 3, 64, 64)),
        ({"output_type": "pt", "partial_postprocess": "true"}, "*/*", "tensor/binary", (2, 64, 64, 3)),
        ({"output_type": "pt", "output_tensor_type": "binary"}, "*/*", "tensor/binary", (2, 3, 64, 64)),
    ],
)  # fmt: skip
async def test_accept_and_the_query_decide_on_the_form_of_the_images(kl16, query, accept, media_type, shape):
    answer = await post(kl16, DECODE, {**WHOLE, **query}, LATENTS, Accept=accept)
    assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
    if shape:
        assert tensor_of(answer).shape == shape
    else:
        assert Image.open(io.BytesIO(answer.content)).size == (128, 64)  # two images side by side


async def test_floats_round_to_the_grey_levels_and_have_more_digits(kl16):
    signed = tensor_of(await post(kl16, DECODE, {**WHOLE, "output_type": "pt"}, LATENTS))
    levels = tensor_of(await post(kl16, DECODE, {**WHOLE, "output_type": "pt", "partial_postprocess": "True"}, LATENTS))
    unit = tensor_of(await post(kl16, DECODE, WHOLE, LATENTS, Accept="tensor/binary"))
    for floats in ((signed + 1) * 127.5, unit * 255):
        assert np.allclose(floats, levels.transpose(0, 3, 1, 2), atol=0.501)
        assert np.unique(floats).size > 1000


async def test_floats_count_as_more_memory_than_grey_levels(tmp_path):
    settings = {"device": "cpu", "threads": 1, "warm_sizes": "64x64", "max_batch_size": 4, "max_memory_bytes": 250_000}
    query = {**WHOLE, "output_type": "pt"}
    async with running(create_app(Settings(model=write(tmp_path / "kl16", "kl16"), **settings))) as client:
        levels = await post(client, DECODE, {**query, "partial_postprocess": "True"}, LATENTS)
        floats = await post(client, DECODE, query, LATENTS)
    assert (levels.status_code, floats.status_code) == (200, 413)
    assert floats.json()["detail"].startswith("latents: 2 images take")


@pytest.mark.parametrize("name", ["kl8", "flux2", "tiny"])
async def test_the_scaling_of_the_model_is_that_of_the_native_api(tmp_path, name, png):
    settings = {"device": "cpu", "threads": 1, "warm_sizes": "64x64", "max_batch_size": 1}
    npy = {"Accept": "application/x-npy"}
    async with running(create_app(Settings(model=write(tmp_path / name, name), **settings))) as client:
        encoded = await client.post("/encode?scaled=true", content=png, headers=npy)
        mean = np.load(io.BytesIO(encoded.content))[0]
        z = tensor_of(await post(client, ENCODE, {"do_scaling": "True"}, png))
        native = await client.post("/decode?scaled=true", content=write_npy(mean), headers=npy)
        count, channels, height, width = mean.shape
        squares = mean.reshape(count, channels, height // 2, 2, width // 2, 2).transpose(0, 2, 4, 1, 3, 5)
        packed = np.ascontiguousarray(squares).reshape(count, -1, 4 * channels)
        query = {"dtype": "float32", "do_scaling": "True", "output_type": "pt", "partial_postprocess": "True"}
        sides = {"height": 8 * height, "width": 8 * width}
        unpacked = tensor_of(await post(client, DECODE, {**query, "shape": mean.shape}, mean))
        of_packed = tensor_of(await post(client, DECODE, {**query, **sides, "shape": packed.shape}, packed))
    assert (z == mean).all()
    assert (unpacked == np.load(io.BytesIO(native.content))).all()
    assert (of_packed == unpacked).all()


async def test_latents_of_uint8_are_answered_in_float32(kl16):
    answer = await post(kl16, DECODE, {**WHOLE, "dtype": "uint8", "output_type": "pt"}, LATENTS.astype(np.uint8))
    assert tensor_of(answer).dtype == np.float32


BROKEN: dict[str, tuple[dict[str, Any], bytes | np.ndarray, int, str]] = {
    "no query": ({}, b"1", 422, "shape: missing; expected the dimensions of the tensor, as"),
    "no dtype": ({"shape": [2, 16, 8, 8]}, b"1", 422, "dtype: missing; expected the data type of the tensor: float16"),
    "too few bytes": (WHOLE, LATENTS[:1], 400, "the tensor: expected 8192 bytes of float32 [2, 16, 8, 8], got 4096"),
    "one byte more": (WHOLE, LATENTS.tobytes() + b"\0", 400, "got 8193"),
    "no bytes": (WHOLE, b"", 400, "the body is empty; expected 8192 bytes of a tensor"),
    "unknown dtype": ({**WHOLE, "dtype": "float64"}, LATENTS, 422, "dtype: expected 'float16', 'bfloat16', 'float32'"),
    "negative side": ({**WHOLE, "shape": [2, 16, -8, -8]}, LATENTS, 422, "shape: expected dimensions from 1 to 2147"),
    "no latents": ({**WHOLE, "shape": [0, 16, 8, 8]}, b"1", 422, "shape: expected dimensions from 1 to 2147483647"),
    "overflow": ({**WHOLE, "shape": [1, 16, HUGE, HUGE]}, LATENTS, 422, "shape[1:]: expected images with sides that"),
    "huge number": ({**WHOLE, "shape": ["9" * 4000]}, LATENTS, 422, "shape[0]: expected a number of at most 128"),
    "many dimensions": ({**WHOLE, "shape": [1] * 90}, LATENTS, 422, "shape: expected 1 to 8 dimensions, got 90"),
    "no number": ({**WHOLE, "shape": ["two", 16, 8, 8]}, LATENTS, 422, "shape[0]: expected a valid integer"),
    "a scalar": ({**WHOLE, "shape": [2048]}, LATENTS, 422, "shape[1:]: expected [16, h, w], got []"),
    "other channels": ({**WHOLE, "shape": [8, 4, 8, 8]}, LATENTS, 422, "shape[1:]: expected [16, h, w], got [4, 8, 8]"),
    "too many": ({**WHOLE, "shape": [9, 16, 8, 8]}, LATENTS, 413, "9 items are more than the 8 allowed"),
    "too large": ({**WHOLE, "shape": [1, 16, 64, 64]}, LATENTS, 413, "images of 512 x 512: more than the 16384 pixels"),
    "NaN": (WHOLE, LATENTS * np.float32(math.nan), 422, "the tensor[0][0][0][0]: expected a finite number, got nan"),
    "out of range": (WHOLE, LATENTS * 1e8, 422, "expected a finite number between -1000000 and 1000000, got"),
    "many commas": ({**WHOLE, "shape": "," * 7000}, LATENTS, 422, "shape: expected 1 to 8 dimensions, got 7001"),
    "long factor": ({**WHOLE, "scaling_factor": "1" * 7000 + "x"}, LATENTS, 422, "of at most 128 characters, got '1"),
    "zero factor": ({**WHOLE, "scaling_factor": 0}, LATENTS, 422, "scaling_factor: expected a number from 1e-06"),
    "tiny factor": ({**WHOLE, "scaling_factor": "1e-40"}, LATENTS, 422, "scaling_factor: expected a number from 1e-06"),
    "small factor": ({**WHOLE, "scaling_factor": "-1e-6"}, LATENTS * 9, 422, "the latents after the scaling[0]["),
    "no factor": ({**WHOLE, "scaling_factor": "nan"}, LATENTS, 422, "scaling_factor: expected a finite number such as"),
    "no boolean": ({**WHOLE, "do_scaling": "yes"}, LATENTS, 422, "do_scaling: expected True or False, got 'yes'"),
    "video": ({**WHOLE, "output_type": "mp4"}, LATENTS, 422, "decodes images, no videos; expected pil or pt, got mp4"),
    "base64": ({**WHOLE, "input_tensor_type": "base64"}, LATENTS, 422, "input_tensor_type: expected 'binary'"),
    "unknown parameter": ({**WHOLE, "scale": 1}, LATENTS, 422, "query: unknown parameter 'scale'; known are"),
    "two dtypes": ({**WHOLE, "dtype": ["float32", "uint8"]}, LATENTS, 422, "expected each parameter once, got 'dtype'"),
    "packed without sides": ({**WHOLE, "shape": [2, 16, 64]}, LATENTS, 422, "height, width: expected the pixels of"),
    "packed otherwise": ({**PACKED, "width": 128}, LATENTS, 422, "shape: expected [N, 32, 64] for packed latents of"),
    "packed to nothing": ({**PACKED, "width": 15}, LATENTS, 422, "shape: expected [N, 0, 64] for packed latents of 15"),
}  # fmt: skip


@pytest.mark.parametrize(("query", "body", "status", "detail"), BROKEN.values(), ids=BROKEN)
async def test_a_broken_request_to_decode_is_refused_by_a_sentence(kl16, query, body, status, detail):
    answer = await post(kl16, DECODE, query, body)
    problem = Problem(**answer.json())
    assert (answer.status_code, problem.status) == (status, status)
    assert detail in problem.detail


TENSOR = {"shape": [1, 3, 64, 64], "dtype": "float32"}
ZEROS = np.zeros((1, 3, 64, 64), np.float32)
BROKEN_IMAGES: dict[str, tuple[dict[str, Any], bytes | np.ndarray, int, str]] = {
    "no image": ({}, b"text", 415, "expected PNG, JPEG, WEBP"),
    "shape alone": ({"shape": [1, 3, 64, 64]}, ZEROS, 422, "shape, dtype: expected both for a tensor, or none for an"),
    "dtype alone": ({"dtype": "float32"}, ZEROS, 422, "shape, dtype: expected both for a tensor, or none for"),
    "too few bytes": (TENSOR, b"1234", 400, "the tensor: expected 49152 bytes of float32 [1, 3, 64, 64], got 4"),
    "four channels": ({**TENSOR, "shape": [1, 4, 64, 48]}, ZEROS, 422, "shape: expected images [N, C, H, W] with C of"),
    "two dimensions": ({**TENSOR, "shape": [64, 192]}, ZEROS, 422, "shape: expected images [N, C, H, W] with C of"),
    "overflow": ({**TENSOR, "shape": [1, 3, HUGE, HUGE]}, ZEROS, 413, "images of 2147483647 x 2147483647: a side of"),
    "too long": (
        {**TENSOR, "shape": [1, 3, 1, 2**16 + 1]},
        bytes(2**16 * 12 + 12),
        413,
        "images of 65537 x 1: a side of more than 65536 pixels",
    ),
    "too many": ({**TENSOR, "shape": [9, 3, 64, 64]}, ZEROS, 413, "9 items are more than the 8 allowed"),
    "out of range": (TENSOR, ZEROS + 1.5, 422, "images[0]: expected floats in [-1, 1], got 1.5 to 1.5"),
    "infinity": (TENSOR, ZEROS + np.float32(math.inf), 422, "the tensor[0][0][0][0]: expected a finite number"),
    "overflowing factor": ({**TENSOR, "scaling_factor": "1e300"}, ZEROS, 422, "expected a number less than or equal"),
    "overflowing shift": ({**TENSOR, "shift_factor": "-1e300"}, ZEROS, 422, "shift_factor: expected a number"),
}  # fmt: skip


@pytest.mark.parametrize(("query", "body", "status", "detail"), BROKEN_IMAGES.values(), ids=BROKEN_IMAGES)
async def test_a_broken_request_to_encode_is_refused_by_a_sentence(kl16, query, body, status, detail):
    answer = await post(kl16, ENCODE, query, body)
    problem = Problem(**answer.json())
    assert (answer.status_code, problem.status) == (status, status)
    assert detail in problem.detail


async def test_values_beyond_any_latent_are_answered_by_what_makes_a_tensor_contiguous(kl16):
    for values in (LATENTS * np.float32(math.nan), LATENTS * 1e8):
        answer = await post(kl16, DECODE, WHOLE, values)
        assert answer.json()["detail"].endswith("; if the tensor was not contiguous, send tensor.contiguous()")


async def test_a_form_that_accept_excludes_is_refused(kl16):
    for query, accept in (({"output_type": "pt"}, "image/png"), ({}, "text/plain")):
        answer = await post(kl16, DECODE, {**WHOLE, **query}, LATENTS, Accept=accept)
        assert answer.status_code == 406
        assert f"Accept is '{accept}'" in answer.json()["detail"]


async def test_paths_below_the_prefix_that_lead_nowhere_are_counted_for_the_dialect(kl16):
    for path, method, status in (("/diffusers/other", "POST", 404), ("/diffusers", "GET", 404), (DECODE, "GET", 405)):
        assert Problem(**(await kl16.request(method, path)).json()).status == status
    exposed = (await kl16.get("/metrics")).text
    assert 'vae_requests_total{dialect="diffusers",endpoint="other",status="404"} 2.0' in exposed
    assert 'vae_requests_total{dialect="diffusers",endpoint="/diffusers/decode",status="405"} 1.0' in exposed


async def test_an_image_tensor_of_another_size_is_fitted_as_a_file_is(kl16):
    levels = np.random.default_rng(0).integers(0, 256, (1, 70, 61, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(levels[0]).save(stream, "PNG")
    of_file = tensor_of(await post(kl16, ENCODE, {}, stream.getvalue()))
    for query, body in (
        ({"dtype": "uint8", "shape": [1, 70, 61, 3]}, levels),
        ({"dtype": "uint8", "shape": [70, 61, 3]}, levels),
        ({"dtype": "float32", "shape": [1, 3, 70, 61]}, levels.transpose(0, 3, 1, 2) / np.float32(127.5) - 1),
    ):
        assert (tensor_of(await post(kl16, ENCODE, query, body)) == of_file).all()


async def test_a_model_with_vectors_as_latents_is_served_as_it_is(client, png, digits):
    z = tensor_of(await post(client, ENCODE, {}, png))
    of_tensor = tensor_of(await post(client, ENCODE, {"dtype": "uint8", "shape": [1, 1, 8, 8]}, digits[:1]))
    assert z.shape == (1, *DIGITS.latent_shape)
    assert (of_tensor == z).all()
    query = {"dtype": "float32", "shape": list(z.shape)}
    answer = await post(client, DECODE, {**query, "image_format": "png"}, z)
    grey = np.array(Image.open(io.BytesIO(answer.content)))
    signed = tensor_of(await post(client, DECODE, {**query, "output_type": "pt"}, z))
    levels = tensor_of(await post(client, DECODE, {**query, "output_type": "pt", "partial_postprocess": "True"}, z))
    assert signed.shape == (1, 1, 8, 8)
    assert levels.shape == (1, 8, 8, 3)  # the client makes an RGB image of each
    assert (levels == grey[None, ..., None]).all()


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ({"shape": [1, 4, 1, 1]}, "shape: expected [N, 4], got [1, 4, 1, 1]"),
        ({"shape": [1, 1, 4], "height": 8, "width": 8}, "shape: expected [N, 4], got [1, 1, 4]"),
    ],
)
async def test_a_model_with_vectors_as_latents_refuses_others_by_their_shape(client, query, detail):
    answer = await post(client, DECODE, {**query, "dtype": "float32"}, np.zeros(4, np.float32))
    assert (answer.status_code, answer.json()["detail"]) == (422, detail)


async def test_concurrent_requests_share_batches_with_those_of_the_native_api(serve, png):
    async with serve(max_batch_delay_ms=200) as client:
        calls = [client.post(path, content=png) for path in (ENCODE, "/encode") * 8]
        answers = await asyncio.gather(*calls)
        exposed = (await client.get("/metrics")).text
    assert {answer.status_code for answer in answers} == {200}
    batches = [line for line in exposed.splitlines() if line.startswith('vae_batches_total{operation="encode"')]
    assert sum(float(line.rpartition(" ")[2]) for line in batches) < 16
