"""Autoencoders of diffusers behind the API: images of many sizes, answered as diffusers' own calls do."""

import asyncio
import io
from contextlib import asynccontextmanager

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from vae_client import AsyncClient

from app.codecs.images import write_npy
from app.main import create_app
from app.settings import Settings
from tests.support.apps import running
from tests.support.diffusers_models import DETERMINISTIC, build, code_of, diffusers, write

pytestmark = pytest.mark.anyio

ERROR_AT_512 = 3e-4
"""Difference of two images of 512 x 512 in float32: with these random weights those of diffusers differ by 1.6e-4
between one and two threads, and by 2.4e-4 from float64."""

NPY = {"accept": "application/x-npy"}


@asynccontextmanager
async def serving(folder, **options):
    settings = Settings(
        model=folder, **{"device": "cpu", "threads": 1, "max_batch_size": 4, "warm_sizes": "64x64", **options}
    )
    app = create_app(settings)
    async with running(app) as client:
        yield app, client


@pytest.fixture(scope="module", params=["kl8", "kl16", "flux2", "tiny", "dc"])
async def served(request, tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("models") / request.param, request.param)
    async with serving(folder, max_batch_size=2) as (_, client):
        yield request.param, client


@pytest.fixture(scope="module")
async def kl(tmp_path_factory):
    async with serving(write(tmp_path_factory.mktemp("models") / "kl", "kl"), max_image_pixels=2**16) as served:
        yield served


def images(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (count, height, width, 3), np.uint8)


async def npy(client, path: str, array: np.ndarray) -> np.ndarray:
    response = await client.post(path, content=write_npy(array), headers=NPY)
    assert response.status_code == 200, response.text
    return np.load(io.BytesIO(response.content))


@torch.inference_mode()
def expected(name: str, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return latents and reconstructed grey levels of diffusers."""
    vae, processor = build(name), diffusers.image_processor.VaeImageProcessor()
    code = code_of(vae.encode(torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float() / 127.5 - 1))
    decoded = processor.postprocess(vae.decode(code).sample, output_type="np")
    return code.numpy(), decoded


async def test_the_answers_are_those_of_diffusers_at_several_sizes(served):
    name, client = served
    for height, width in ((64, 64), (96, 160)):
        pixels = images(2, height, width)
        code, decoded = expected(name, pixels)
        latents = await npy(client, "/encode", pixels)
        assert len(latents) == (1 if name in DETERMINISTIC else 2)
        np.testing.assert_allclose(latents[0], code, atol=1e-4)
        for answer in (await npy(client, "/decode", latents), await npy(client, "/reconstruct", pixels)):
            assert np.abs(answer - decoded * 255).max() <= 0.5 + 255e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kl", "kl16", "tiny", "dc"])
async def test_the_answers_are_those_of_diffusers_at_512_x_512(tmp_path, name):
    pixels = images(1, 512, 512)
    code, decoded = expected(name, pixels)
    async with serving(write(tmp_path / name, name)) as (_, client):
        latents = await npy(client, "/encode", pixels)
        np.testing.assert_allclose(latents[0], code, atol=1e-4)
        for answer in (await npy(client, "/decode", latents), await npy(client, "/reconstruct", pixels)):
            assert np.abs(answer - decoded * 255).max() <= 0.5 + 255 * ERROR_AT_512


async def test_scaled_latents_are_those_of_a_pipeline(served):
    name, client = served
    pixels = images(1, 64, 64)
    code, decoded = expected(name, pixels)
    if name == "flux2":
        pytest.skip("the units of its pipeline are tested where the model is read")
    config = build(name).config
    scale, shift = config.get("scaling_factor") or 1.0, config.get("shift_factor") or 0.0
    if config.get("latents_mean"):
        mean, std = (torch.tensor(config[field]).view(-1, 1, 1).numpy() for field in ("latents_mean", "latents_std"))
        scale, shift = scale / std, mean
    response = await client.post("/encode?scaled=true", content=write_npy(pixels))
    assert response.json().get("scaled") is True
    np.testing.assert_allclose(response.json()["latents"][0]["mean"], ((code - shift) * scale)[0], atol=1e-4)
    for path, content in (("/decode", response.content), ("/decode?scaled=true", write_npy((code - shift) * scale))):
        answer = await client.post(path, content=content, headers=NPY)
        assert np.abs(np.load(io.BytesIO(answer.content)) - decoded * 255).max() <= 0.5 + 255e-4


async def test_an_image_of_another_size_is_resized_as_diffusers_does(kl):
    _, client = kl
    image = Image.fromarray(images(1, 100, 130)[0])
    file = io.BytesIO()
    image.save(file, "PNG")
    processed = diffusers.image_processor.VaeImageProcessor().preprocess(image)
    assert processed.shape == (1, 3, 96, 128)
    with torch.inference_mode():
        code = code_of(build("kl").encode(processed)).numpy()
    response = await client.post("/encode", content=file.getvalue(), headers=NPY)
    np.testing.assert_allclose(np.load(io.BytesIO(response.content))[0], code, atol=1e-4)
    resized = await client.post("/encode?height=64&width=32", content=file.getvalue(), headers=NPY)
    assert np.load(io.BytesIO(resized.content)).shape == (2, 1, 4, 8, 4)


async def test_concurrent_requests_of_five_sizes_are_answered_each_with_its_own(kl):
    app, client = kl
    sizes = [(64, 64), (32, 48), (48, 32), (96, 64), (64, 128)]
    pixels = [images(1, *sizes[n % 5]) for n in range(40)]
    answers = await asyncio.gather(*(npy(client, "/encode", each) for each in pixels))
    codes = {size: expected("kl", images(1, *size))[0] for size in sizes}
    for n, answer in enumerate(answers):
        np.testing.assert_allclose(answer[0], codes[sizes[n % 5]], atol=1e-4)
    text = (await client.get("/metrics")).text
    (batches,) = (line for line in text.splitlines() if line.startswith('vae_batch_size_count{operation="encode"}'))
    (items,) = (line for line in text.splitlines() if line.startswith('vae_batch_size_sum{operation="encode"}'))
    assert float(items.split()[1]) > float(batches.split()[1])  # requests of one size share batches
    assert app.state.services.engine.ready


async def test_model_info_of_a_model_of_many_sizes_has_its_rule_and_what_it_cannot_do(kl):
    _, client = kl
    model = (await client.get("/model")).json()
    assert (model["format"], model["image_shape"], model["latent_shape"]) == ("diffusers", [3, 64, 64], [4, 8, 8])
    assert model["image_sizes"].items() >= {"factor": 8, "minimum": 16}.items()
    assert model["scaling"] == {"scale": [0.18215], "shift": [0.0]}
    supported = {name: entry["supported"] for name, entry in model["capabilities"].items()}
    assert supported == {"samples": True, "sample": False, "elbo": False, "typicality": False, "tiles": True}
    refused = await client.get("/sample")
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:vae:problem:unsupported-by-model")
    assert "?force=true" in refused.json()["detail"]
    forced = await client.get("/sample?n=2&force=true&height=32&width=48&seed=1", headers=NPY)
    assert np.load(io.BytesIO(forced.content)).shape == (2, 32, 48, 3)


async def test_scores_of_a_model_without_a_density_are_the_errors_of_the_reconstruction(kl):
    _, client = kl
    pixels = images(2, 64, 96)
    scores = (await client.post("/score", content=write_npy(pixels))).json()["scores"]
    _, decoded = expected("kl", pixels)
    errors = ((decoded - pixels / 255) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose([score["squared_error"] for score in scores], errors, rtol=1e-4)
    np.testing.assert_allclose([score["psnr"] for score in scores], -10 * np.log10(errors), rtol=1e-4)
    assert all(score["kl"] > 0 for score in scores)
    refused = await client.post("/score?samples=2", content=write_npy(pixels))
    assert refused.json()["title"] == "Unsupported by model"


async def test_the_python_client_knows_sizes_and_units(kl):
    app, _ = kl
    pixels = images(2, 64, 96)
    async with AsyncClient("http://vae", transport=httpx.ASGITransport(app=app)) as vae:
        encoded = await vae.encode(pixels, size=(32, 48), scaled=True)
        assert encoded.mean.shape == (2, 4, 4, 6)
        reconstructed = await vae.reconstruct(pixels, size=(32, 48))
        assert np.abs(await vae.decode(encoded, scaled=True) - reconstructed.astype(int)).max() <= 1
        assert (await vae.sample(1, size=(16, 32), force=True)).images.shape == (1, 16, 32, 3)
        scored = await vae.score(pixels)
        assert np.isnan(scored.elbo).all()
        assert (scored.kl > 0).all()
        assert (scored.psnr > 0).all()


async def test_a_deterministic_encoder_has_no_draws(tmp_path):
    async with serving(write(tmp_path / "tiny", "tiny")) as (_, client):
        pixels = write_npy(images(1, 64, 64))
        encoded = await client.post("/encode", content=pixels)
        assert encoded.json()["latents"][0]["logvar"] is None
        assert (await client.post("/decode", content=encoded.content)).status_code == 200
        for path in ("/encode?samples=1", "/reconstruct?seed=1"):
            refused = await client.post(path, content=pixels)
            assert (refused.status_code, refused.json()["title"]) == (422, "Unsupported by model")
        assert "kl" not in (await client.post("/score", content=pixels)).json()["scores"][0]


@pytest.mark.parametrize(
    ("path", "sizes", "status", "sentence"),
    [
        ("/encode?height=60", [(64, 64)], 422, "height: expected a multiple of 8 from 16 to 16384, got 60"),
        (
            "/encode",
            [(67, 66), (65, 99)],
            422,
            "images[1]: expected 64 x 64 pixels as images[0] of 66 x 67 is fitted to, got 99 x 65, fitted to 96 x 64;",
        ),
        ("/encode?fit=exact", [(60, 64)], 422, "images[0]: expected 64 x 56 pixels, got 64 x 60"),
        ("/encode?height=512&width=512", [(64, 64)], 413, "images of 512 x 512: more than the 65536 pixels allowed"),
    ],
)
async def test_sizes_that_a_request_cannot_have_are_refused(kl, path, sizes, status, sentence):
    _, client = kl
    files = []
    for height, width in sizes:
        file = io.BytesIO()
        Image.fromarray(images(1, height, width)[0]).save(file, "PNG")
        files.append(("images", file.getvalue()))
    response = await client.post(path, files=files)
    assert (response.status_code, response.json()["detail"][: len(sentence)]) == (status, sentence)


async def test_a_body_and_a_query_with_different_units_are_refused(kl):
    _, client = kl
    encoded = (await client.post("/encode?scaled=true", content=write_npy(images(1, 32, 32)))).json()
    for body, query in ((encoded, "false"), ({**encoded, "scaled": False}, "true")):
        response = await client.post(f"/decode?scaled={query}", json=body)
        assert response.status_code == 422
        assert response.json()["detail"].startswith(f"scaled: expected {query} as in the query, or no such field, got")
    assert (await client.post("/decode?scaled=true", json=encoded)).status_code == 200


async def test_latents_are_within_the_range_in_the_units_of_the_autoencoder_as_well(kl):
    _, client = kl
    array = np.full((1, 4, 4, 4), 9e5, np.float32)
    assert (await client.post("/decode", content=write_npy(array))).status_code == 200
    refused = await client.post("/decode?scaled=true", content=write_npy(array))
    assert refused.status_code == 422
    assert "latents[0][0][0][0]: expected a finite number between -1000000 and 1000000" in refused.json()["detail"]


async def test_images_that_cannot_be_computed_before_the_deadline_are_refused(kl):
    _, client = kl
    headers = {"X-Request-Timeout": "0.001"}
    response = await client.get("/sample?n=16&force=true&height=256&width=256", headers=headers)
    assert (response.status_code, response.json()["title"]) == (413, "Too large")
    assert "16 images of 256 x 256 take about" in response.json()["detail"]


async def test_latents_of_too_large_an_image_or_of_other_channels_are_refused(kl):
    _, client = kl
    for shape, status in (((1, 3, 8, 8), 422), ((1, 4, 1, 8), 422), ((1, 4, 64, 64), 413)):
        response = await client.post("/decode", content=write_npy(np.zeros(shape, np.float32)))
        assert response.status_code == status, response.text


async def test_a_reload_changes_the_format_while_requests_are_answered(digits_model, digits, tmp_path):
    served = tmp_path / "served"
    served.symlink_to(digits_model)
    async with serving(served, api_key="key") as (_, client):
        client.headers["Authorization"] = "Bearer key"
        small, large = write_npy(digits[:1, 0]), write_npy(images(1, 64, 64))
        seen = []

        async def call() -> None:
            for _ in range(30):
                response = await client.post("/encode", content=large if seen and seen[-1][1] == 422 else small)
                seen.append((response.headers.get("X-Model", "").partition(":")[0], response.status_code))

        calls = asyncio.create_task(call())
        served.unlink()
        served.symlink_to(write(tmp_path / "kl", "kl"))
        assert (await client.post("/admin/reload")).json()["format"] == "diffusers"
        await calls
        assert {status for _, status in seen} <= {200, 422}
        response = await client.post("/encode", content=large)
        assert response.json()["shape"] == [4, 8, 8]
        served.unlink()
        served.symlink_to(digits_model)
        assert (await client.post("/admin/reload")).json()["format"] == "native"
        assert (await client.post("/encode", content=small)).json()["shape"] == [4]
