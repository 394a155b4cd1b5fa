"""Pairs of ONNX graphs are computed by ONNX Runtime, with the same bits in every batch."""

import io

import numpy as np
import pytest
import torch

from app.inference.memory import available, peak, reset_peak, resident
from app.main import create_app
from app.runtimes.base import Target
from app.runtimes.onnx_session import has_cuda
from app.runtimes.operations import examples
from app.runtimes.selection import allowed_runtimes, compile_model
from app.settings import Settings, SettingsError
from model.files import CheckpointError
from model.formats import read_model
from tests.support.apps import running
from tests.support.engines import context, running_engine
from tests.support.onnx_pairs import (
    VECTOR_DECODER,
    VECTOR_ENCODER,
    write_attention_pair,
    write_spatial_pair,
    write_vector_pair,
)

pytestmark = pytest.mark.anyio

CPU = torch.device("cpu")


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


async def test_the_service_answers_what_the_networks_of_a_pair_compute(tmp_path):
    folder = write_vector_pair(tmp_path / "mine", likelihood="bernoulli")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8), np.uint8)
    async with running(create_app(Settings(model=folder, device="cpu", threads=1, max_batch_size=4))) as client:
        latents = (await client.post("/encode", content=npy(pixels))).json()["latents"]
        decoded = await client.post(
            "/decode", json={"latents": [entry["mean"] for entry in latents]}, headers={"accept": "application/x-npy"}
        )
        score = await client.post("/score?seed=1", content=npy(pixels))
        seeded = [(await client.post("/reconstruct?seed=7", content=npy(pixels[:rows]))).content for rows in (1, 1)]
        about = (await client.get("/model")).json()
    with torch.inference_mode():
        expected = VECTOR_ENCODER(torch.from_numpy(pixels)[:, None] / 255)
        images = VECTOR_DECODER(expected[:, :3]).clamp(0, 1).numpy()[:, 0] * 255
    found = np.array([entry["mean"] + entry["logvar"] for entry in latents])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(np.load(io.BytesIO(decoded.content))[..., 0] - images).max() <= 0.51
    assert score.json()["scores"][0]["bits_per_dim"] > 0
    assert seeded[0] == seeded[1]
    assert (about["runtime"], about["batch_invariant"], about["model"][:5]) == ("onnxruntime", True, "mine:")


@pytest.mark.parametrize("write", [write_vector_pair, write_spatial_pair])
def test_a_single_row_on_more_threads_gets_the_bits_that_it_gets_in_a_batch(tmp_path, write):
    model = read_model(write(tmp_path)).model
    compiled = compile_model(model, Settings(), Target(CPU, threads=1, max_threads=2))
    assert compiled.has_single_row_networks
    rows = examples(model.spec, 3)["reconstruct"]
    (batch,) = compiled.run("reconstruct", rows, deterministic=True).columns
    (single,) = compiled.run("reconstruct", rows[:1], deterministic=True, single=True).columns
    np.testing.assert_array_equal(batch[:1], single)


def test_settings_that_do_not_fit_a_pair_are_refused(tmp_path):
    model = read_model(write_vector_pair(tmp_path)).model
    assert allowed_runtimes(Settings(), Target(CPU), model) == ("onnxruntime",)
    with pytest.raises(SettingsError, match="runtime: expected auto or onnxruntime for an ONNX pair, got torch"):
        allowed_runtimes(Settings(runtime="torch"), Target(CPU), model)
    with pytest.raises(SettingsError, match="precision: expected float32 for an ONNX pair"):
        allowed_runtimes(Settings(precision="bfloat16"), Target(CPU, "bfloat16"), model)


@pytest.mark.skipif(has_cuda(), reason="onnxruntime-gpu is installed")
def test_a_gpu_without_the_gpu_build_of_onnx_runtime_is_refused_with_its_name(tmp_path):
    model = read_model(write_vector_pair(tmp_path)).model
    with pytest.raises(SettingsError, match="pip install onnxruntime-gpu"):
        compile_model(model, Settings(), Target(torch.device("cuda:0")))


def test_a_graph_that_cannot_be_opened_is_refused_before_the_service_is_ready(tmp_path):
    folder = write_vector_pair(tmp_path)
    content = (folder / "encoder.onnx").read_bytes().replace(b"Gemm", b"Jemm")
    (folder / "encoder.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"encoder.onnx: ONNX Runtime cannot open the graph: .*Jemm"):
        create_app(Settings(model=folder, device="cpu"))


async def test_a_pair_of_many_sizes_is_served_at_each_of_them(tmp_path):
    folder = write_spatial_pair(tmp_path / "mine", likelihood="gaussian")
    model = read_model(folder).model
    async with running(create_app(Settings(model=folder, device="cpu", threads=1, max_batch_size=2))) as client:
        for height, width in ((16, 16), (24, 32)):
            pixels = np.random.default_rng(0).integers(0, 256, (2, height, width, model.spec.channels), np.uint8)
            encoded = await client.post("/encode", content=npy(pixels), headers={"accept": "application/x-npy"})
            images = torch.from_numpy(pixels.transpose(0, 3, 1, 2)) / 255
            with torch.inference_mode():
                expected = model.posterior(images).mean
            np.testing.assert_allclose(np.load(io.BytesIO(encoded.content))[0], expected, atol=1e-4)
            score = await client.post("/score?samples=2&seed=1", content=npy(pixels))
            assert np.isfinite(score.json()["scores"][0]["log_likelihood"])
            sampled = await client.get(
                f"/sample?n=2&height={height}&width={width}", headers={"accept": "application/x-npy"}
            )
            assert np.load(io.BytesIO(sampled.content)).shape == pixels.shape


async def test_the_memory_of_attention_over_a_large_image_is_returned_after_it(tmp_path):
    folder = write_attention_pair(tmp_path / "mine", maximum=512)
    async with running_engine(folder, "cpu", max_batch_size=1) as engine:
        model = engine.loaded_model
        before = resident()
        reset_peak()
        await model.encode(np.zeros((1, 3, 320, 320), np.uint8), context())
        assert peak() - before > 2**27
        assert resident() - before < 2**26


async def test_a_pair_refuses_an_image_whose_attention_takes_more_memory_than_there_is(tmp_path):
    folder = write_attention_pair(tmp_path / "mine", maximum=8192)
    async with running(create_app(Settings(model=folder, device="cpu", threads=1, max_batch_size=1))) as client:
        sizes = (await client.get("/model")).json()["image_sizes"]["largest_whole"]
        assert sizes["reconstruct"] <= sizes["encode"] < 1.1 * (available() / 2 / (4 * 2 / 4**4)) ** 0.5
        for path in ("/encode", "/reconstruct"):
            response = await client.post(
                f"{path}?height=4096&width=4096", content=npy(np.zeros((1, 16, 16, 3), np.uint8))
            )
            assert response.status_code == 413
            assert "images of 4096 x 4096 take about" in response.json()["detail"]
