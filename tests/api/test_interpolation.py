"""Interpolation: ends, straight lines and great circles, forms of the ends, and refusals."""

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from app.api.interpolation import linear, spherical
from app.codecs.images import write_npy
from app.codecs.png import write_png

pytestmark = pytest.mark.anyio

NPY = {"Accept": "application/x-npy"}
ENDS = np.array([[0.5, -1, 0, 2], [-1, 1, 0.25, 0]], np.float32)

latents = arrays(np.float32, (5,), elements=st.floats(-100, 100, width=32))


@given(latents, latents, st.integers(2, 12))
def test_a_line_begins_and_ends_at_its_latents_in_equal_steps(a, b, steps):
    way = linear(a, b, steps)
    assert (way.shape, way.dtype) == ((steps, 5), np.float32)
    np.testing.assert_array_equal(way[[0, -1]], [a, b])
    np.testing.assert_allclose(way, [a + (b - a) * t for t in np.linspace(0, 1, steps)], atol=1e-3)


@given(latents, latents, st.integers(2, 12))
def test_a_great_circle_is_finite_and_ends_at_its_latents(a, b, steps):
    way = spherical(a, b, steps)
    assert np.isfinite(way).all()
    np.testing.assert_array_equal(way[[0, -1]], [a, b])


def test_a_great_circle_keeps_the_norm_and_divides_the_angle():
    a, b = np.float32([3, 0, 0]), np.float32([0, 3, 0])
    way = spherical(a, b, 4)
    np.testing.assert_allclose(np.linalg.norm(way, axis=1), 3, rtol=1e-6)
    np.testing.assert_allclose(np.arctan2(way[:, 1], way[:, 0]), np.linspace(0, np.pi / 2, 4), atol=1e-6)


@pytest.mark.parametrize("b", [[2, 4], [-1, -2], [0, 0], [1, 2]])
def test_a_great_circle_between_parallel_latents_is_a_line(b):
    a = np.float32([1, 2])
    np.testing.assert_array_equal(spherical(a, np.float32(b), 5), linear(a, np.float32(b), 5))


async def interpolated(client, query: str = "", **request) -> np.ndarray:
    answer = await client.post(f"/interpolate{query}", headers=NPY, **request)
    assert answer.status_code == 200, answer.text
    return np.load(io.BytesIO(answer.content))


@pytest.mark.parametrize(("mode", "way"), [("linear", linear), ("slerp", spherical)])
async def test_the_images_are_those_of_the_latents_between(client, mode, way):
    expected = await client.post("/decode", content=write_npy(way(*ENDS, 5)), headers=NPY)
    images = await interpolated(client, f"?steps=5&mode={mode}", content=write_npy(ENDS))
    np.testing.assert_allclose(images.astype(int), np.load(io.BytesIO(expected.content)), atol=1)


async def test_all_forms_of_the_ends_are_read(client, digits):
    files = [("image", (f"{index}.png", write_png(image))) for index, image in enumerate(digits[:2])]
    encoded = (await client.post("/encode", files=files)).json()
    texts = [base64.b64encode(write_png(image)).decode() for image in digits[:2]]
    forms = (
        {"files": files},
        {"json": {"images": texts}},
        {"content": write_npy(digits[:2, 0])},
        {"json": encoded},
        {"json": {"latents": [latent["mean"] for latent in encoded["latents"]]}},
    )
    images = [await interpolated(client, **form) for form in forms]
    assert {each.shape for each in images} == {(9, 8, 8, 1)}
    for other in images[1:]:
        np.testing.assert_allclose(other.astype(int), images[0], atol=1)


async def test_the_answer_is_a_row_of_images(client):
    answer = await client.post("/interpolate?steps=3", content=write_npy(ENDS))
    assert answer.headers["content-type"] == "image/png"
    assert answer.content[16:24] == (24).to_bytes(4) + (8).to_bytes(4)


@pytest.mark.parametrize(
    ("query", "body", "status", "sentence"),
    [
        ("", write_npy(ENDS[:1]), 422, "expected two images or two latents, got 1"),
        ("", write_npy(np.zeros((3, 8, 8), np.uint8)), 422, "expected two images or two latents, got 3"),
        ("", write_npy(np.zeros((2, 5), np.float32)), 422, "expected a float32 array [N, 4]"),
        ("", b"", 400, "the body is empty; expected two images or two latents"),
        ("", b'{"image": []}', 422, "the body: unknown field 'image'"),
        ("?steps=1", write_npy(ENDS), 422, "steps: expected a number greater than or equal to 2, got '1'"),
        ("?steps=5000", write_npy(ENDS), 413, "5000 images: more than the 4096 items"),
        ("?mode=cubic", write_npy(ENDS), 422, "mode: expected 'linear' or 'slerp', got 'cubic'"),
    ],
)
async def test_other_ends_and_parameters_are_refused(client, query, body, status, sentence):
    answer = await client.post(f"/interpolate{query}", content=body)
    assert answer.status_code == status
    assert sentence in answer.json()["detail"]
