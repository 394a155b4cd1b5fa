"""Error maps: where an image deviates from its reconstruction, in colours and as numbers."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app.codecs.error_map import DEVIATIONS_SHOWN, color_map
from app.codecs.images import write_npy
from app.errors import DeadlineExceeded
from tests.support.diffusers_models import write
from tests.support.models import COLOUR, DIGITS, build

pytestmark = pytest.mark.anyio

NPY = {"Accept": "application/x-npy"}
JSON = {"Accept": "application/json"}
MAP = "/reconstruct?output=error"


async def array(client, path: str, pixels: np.ndarray) -> np.ndarray:
    response = await client.post(path, content=write_npy(pixels), headers=NPY)
    assert response.status_code == 200, response.text
    return np.load(io.BytesIO(response.content), allow_pickle=False)


def expected(vae, pixels: np.ndarray) -> np.ndarray:
    """The deviations of the model itself, [N, H, W, C]."""
    with torch.inference_mode():
        x = torch.from_numpy(pixels).movedim(-1, 1) / 255
        p = vae.likelihood(vae.posterior(x).mean)
        scale = 1 if p.deviation is None else p.deviation
        return ((x - p.mean) / scale).movedim(1, -1).numpy()


async def test_deviations_of_a_bernoulli_model_are_in_pixel_values(client, digits):
    pixels = digits[:5].transpose(0, 2, 3, 1)
    deviations = await array(client, MAP, pixels)
    assert deviations.dtype == np.float32
    assert deviations.shape == (5, 8, 8, 1)
    np.testing.assert_allclose(deviations, expected(build(DIGITS), pixels), atol=1e-5)
    rounded = await array(client, "/reconstruct", pixels)
    assert np.abs(pixels / 255 - deviations - rounded / 255).max() <= 0.51 / 255


async def test_deviations_of_a_model_with_scales_are_in_standard_deviations(serve, colour_model):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 13, 9, 3), dtype=np.uint8)
    async with serve(model=colour_model) as client:
        deviations = await array(client, MAP, pixels)
    np.testing.assert_allclose(deviations, expected(build(COLOUR), pixels), rtol=1e-3, atol=1e-4)


async def test_a_map_shows_the_place_that_deviates_and_is_black_elsewhere(client, digits):
    picture = await client.post(MAP, content=write_npy(digits[:1].transpose(0, 2, 3, 1)))
    assert picture.headers["content-type"] == "image/png"
    image = Image.open(io.BytesIO(picture.content))
    assert (image.mode, image.size) == ("RGB", (8, 8))
    deviations = np.abs(await array(client, MAP, digits[:1].transpose(0, 2, 3, 1)))[0, :, :, 0]
    luminance = np.asarray(image.convert("L")).astype(int)
    order = np.argsort(deviations, axis=None)
    assert (np.diff(luminance.ravel()[order]) >= -1).all()


async def test_maps_come_as_a_grid_in_json_and_with_loss(client, digits):
    body = write_npy(digits[:6].transpose(0, 2, 3, 1))
    grid = Image.open(io.BytesIO((await client.post(f"{MAP}&columns=3", content=body)).content))
    assert grid.size == (24, 16)
    assert len((await client.post(MAP, content=body, headers=JSON)).json()["images"]) == 6
    lossy = await client.post(MAP, content=body, headers={"Accept": "image/webp"})
    assert lossy.headers["content-type"] == "image/webp"


async def test_a_seed_takes_the_reconstruction_of_a_draw(client, digits):
    pixels = digits[:2].transpose(0, 2, 3, 1)
    drawn = await client.post(f"{MAP}&seed=3", content=write_npy(pixels), headers=NPY)
    assert drawn.headers["x-seed"] == "3"
    again = await client.post(f"{MAP}&seed=3", content=write_npy(pixels), headers=NPY)
    mean = await client.post(MAP, content=write_npy(pixels), headers=NPY)
    assert drawn.content == again.content != mean.content
    assert "x-seed" not in mean.headers


async def test_an_autoencoder_without_a_density_has_deviations_in_pixel_values(serve, tmp_path: Path):
    pytest.importorskip("diffusers")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    async with serve(model=write(tmp_path / "kl", "kl"), warm_sizes="32x48", max_batch_size=2) as client:
        deviations, images = await array(client, MAP, pixels), await array(client, "/reconstruct", pixels)
    assert np.abs(pixels / 255 - deviations - images / 255).max() <= 0.51 / 255


@pytest.mark.parametrize("value", ["map", "", "Error"])
async def test_another_output_is_refused_with_the_names_of_both(client, digits, value):
    response = await client.post(f"/reconstruct?output={value}", content=write_npy(digits[0].transpose(1, 2, 0)[None]))
    assert response.status_code == 422
    assert "'image' or 'error'" in response.json()["detail"]


def test_colours_get_lighter_with_the_deviation_and_end_at_the_largest_that_is_shown():
    deviations = np.linspace(-2 * DEVIATIONS_SHOWN, 2 * DEVIATIONS_SHOWN, 401, dtype=np.float32).reshape(1, 1, 1, 401)
    colors = color_map(deviations, DEVIATIONS_SHOWN, lambda: False)[0, :, 0].astype(int)
    luminance = np.array([299, 587, 114]) @ colors
    assert (luminance == luminance[::-1]).all()
    assert (np.diff(luminance[200:]) >= 0).all()
    assert not luminance[200].any()
    assert (colors[:, 300:] == colors[:, -1:]).all()
    assert (colors[:, 299] != colors[:, 200]).any()


def test_colours_end_at_the_deadline():
    with pytest.raises(DeadlineExceeded):
        color_map(np.zeros((2, 1, 4, 4), np.float32), 1.0, lambda: True)
