"""Torch and ONNX Runtime compute the same networks; which of them does is the settings' choice, and told."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from conftest import COLOUR, DIGITS, build, running, write
from torch.testing import assert_close

from app.images import write_npy
from app.machine import cores
from app.main import create_app
from app.runtime import choose_runtime, compiled, is_laborious
from app.settings import Settings
from model.checkpoint import CheckpointError
from model.config import VAEConfig
from model.vae import VAE

pytestmark = pytest.mark.anyio

COMPILE = """
import sys
from pathlib import Path
from app.runtime import compiled
from model.checkpoint import read_checkpoint
compiled(read_checkpoint(Path(sys.argv[1])).vae)
"""

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.mark.parametrize("config", [DIGITS, COLOUR], ids=["digits", "colour"])
@pytest.mark.parametrize("leading", [(1,), (7,), (2, 3)])
def test_a_compiled_vae_has_the_same_posteriors_and_likelihoods(config, leading):
    vae = build(config)
    x, z = torch.rand(7, *config.image_shape), torch.randn(*leading, *config.latent_shape)
    q, p = vae.posterior(x), vae.likelihood(z)
    other = compiled(vae)
    for weight in vae.parameters():
        weight.data.zero_()  # it shares none
    assert_close(other.posterior(x).mean, q.mean, rtol=1e-4, atol=1e-5)
    assert_close(other.posterior(x).logvar, q.logvar, rtol=1e-4, atol=1e-5)
    assert_close(other.likelihood(z).mean, p.mean, rtol=1e-4, atol=1e-5)
    assert not [*other.parameters()]


def test_pixels_may_lie_in_memory_in_any_order():
    vae = build(COLOUR)
    x = torch.rand(5, *COLOUR.image_shape).contiguous(memory_format=torch.channels_last)
    assert_close(compiled(vae).posterior(x).mean, vae.posterior(x).mean, rtol=1e-4, atol=1e-5)


def test_unasked_a_processor_has_onnx_runtime_for_single_precision_and_torch_does_all_else():
    assert choose_runtime(Settings(), CPU) == "onnxruntime"
    assert choose_runtime(Settings(precision="bfloat16"), CPU) == "torch"
    assert choose_runtime(Settings(), CUDA) == "torch"
    assert choose_runtime(Settings(runtime="torch"), CPU) == "torch"
    assert choose_runtime(Settings(runtime="onnxruntime"), CPU) == "onnxruntime"


@pytest.mark.parametrize(("device", "precision"), [(CPU, "bfloat16"), (CUDA, "float32")])
def test_onnx_runtime_is_refused_what_it_does_not_serve(device, precision):
    with pytest.raises(ValueError, match=f"onnxruntime serves float32 on a CPU, not {precision} on {device.type}"):
        choose_runtime(Settings(runtime="onnxruntime", precision=precision), device)


def test_networks_too_large_for_a_graph_are_left_to_torch():
    with torch.device("meta"):  # weights that are only counted
        vae = VAE(replace(DIGITS, hidden=(30_000, 30_000)))
    with pytest.raises(CheckpointError, match="only VAE_RUNTIME=torch serves them"):
        compiled(vae)


def test_nothing_is_told_to_the_maker_of_onnx_runtime(digits_model, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE, str(digits_model)]
    subprocess.run(command, env=environment, check=True, cwd=Path(__file__).parent.parent)
    assert not [*tmp_path.iterdir()]  # where it would name this machine, and keep what it has not sent yet


async def test_both_serve_the_same_answers_and_say_who_computed(serve):
    body = write_npy(np.random.default_rng(0).integers(0, 256, (9, 8, 8), np.uint8))
    means = []
    for runtime in ("torch", "onnxruntime"):
        async with serve(runtime=runtime, device="cpu") as client:
            assert (await client.get("/model")).json()["runtime"] == runtime
            means.append(await mean(client, body))
    np.testing.assert_allclose(means[0], means[1], rtol=1e-4, atol=1e-5)


LABORIOUS = VAEConfig(image_shape=(1, 64, 64), latent_shape=(1, 16, 16), channels=(48, 48, 48), blocks=(1, 1, 1))


@pytest.mark.parametrize(("config", "laborious"), [(DIGITS, False), (COLOUR, False), (LABORIOUS, True)])
def test_how_much_work_an_image_is_is_counted(config, laborious):
    assert is_laborious(VAE(config)) is laborious


async def test_a_laborious_image_that_comes_alone_has_all_cores_and_the_bits_that_it_has_in_company(tmp_path):
    app = create_app(Settings(model=write(tmp_path / "model", LABORIOUS), device="cpu", max_batch_size=2))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64), np.uint8)
    async with running(app) as client:
        served = app.state.engine.served
        assert (served.alone is not served.vae) == (cores() > 1)
        assert served.apart
        together = await mean(client, write_npy(pixels))
        assert [*await mean(client, write_npy(pixels[:1])), *await mean(client, write_npy(pixels[1:]))] == together


@pytest.mark.parametrize("settings", [{"threads": 1}, {"runtime": "torch"}])
def test_where_threads_are_numbered_or_torch_serves_there_is_one_copy_of_the_weights(settings, tmp_path):
    app = create_app(Settings(model=write(tmp_path / "model", LABORIOUS), device="cpu", **settings))
    assert app.state.engine.served.alone is app.state.engine.served.vae


async def mean(client: httpx.AsyncClient, body: bytes) -> list[list[float]]:
    answer = await client.post("/encode", content=body, headers={"content-type": "application/x-npy"})
    return [latent["mean"] for latent in answer.json()["latents"]]
