"""Which runtime computes the networks is the settings' choice, and told; they serve the same answers."""

import sys
from dataclasses import replace

import httpx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch.utils.flop_counter import FlopCounterMode

from app.codecs.images import write_npy
from app.inference.memory import resident, trim
from app.main import create_app
from app.resources import cores
from app.runtimes.selection import choose_runtime, compiled, is_laborious, operations
from app.settings import Settings
from model.checkpoint import CheckpointError
from model.config import VAEConfig
from model.vae import VAE
from tests.support.apps import running
from tests.support.configs import configs
from tests.support.models import COLOUR, DIGITS, write

pytestmark = pytest.mark.anyio

LABORIOUS = VAEConfig(image_shape=(1, 64, 64), latent_shape=(1, 16, 16), channels=(48, 48, 48), blocks=(1, 1, 1))
CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
SMALL, LARGE = VAE(DIGITS), VAE(LABORIOUS)


def test_unasked_a_processor_has_onnx_runtime_or_for_large_models_mnn_and_torch_does_all_else():
    assert choose_runtime(Settings(), CPU, SMALL) == "onnxruntime"
    assert choose_runtime(Settings(), CPU, LARGE) == "mnn"
    assert choose_runtime(Settings(batch_invariant=True), CPU, LARGE) == "onnxruntime"
    assert choose_runtime(Settings(precision="bfloat16"), CPU, LARGE) == "torch"
    assert choose_runtime(Settings(), CUDA, LARGE) == "torch"


@pytest.mark.parametrize("vae", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "mnn"])
def test_a_runtime_that_is_asked_for_is_taken(runtime, vae):
    assert choose_runtime(Settings(runtime=runtime), CPU, vae) == runtime


@pytest.mark.parametrize("runtime", ["onnxruntime", "mnn"])
@pytest.mark.parametrize(("device", "precision"), [(CPU, "bfloat16"), (CUDA, "float32")])
def test_other_runtimes_are_refused_what_they_do_not_serve(runtime, device, precision):
    with pytest.raises(ValueError, match=f"{runtime} serves float32 on a CPU, not {precision} on {device.type}"):
        choose_runtime(Settings(runtime=runtime, precision=precision), device, SMALL)


def test_mnn_is_refused_where_no_answer_may_depend_on_the_load():
    with pytest.raises(ValueError, match="mnn serves on Linux, where answers may depend on the load"):
        choose_runtime(Settings(runtime="mnn", batch_invariant=True), CPU, LARGE)


def test_networks_too_large_for_a_graph_are_left_to_torch():
    with torch.device("meta"):  # weights that are only counted
        vae = VAE(replace(DIGITS, hidden=(30_000, 30_000)))
    with pytest.raises(CheckpointError, match="only VAE_RUNTIME=torch serves them"):
        compiled(vae)


async def test_all_serve_the_same_answers_and_say_who_computed(serve):
    body = write_npy(np.random.default_rng(0).integers(0, 256, (9, 8, 8), np.uint8))
    means = []
    for runtime in ("torch", "onnxruntime", "mnn"):
        async with serve(runtime=runtime, device="cpu") as client:
            told = (await client.get("/model")).json()
            assert (told["runtime"], told["batch_invariant"]) == (runtime, runtime == "onnxruntime")
            means.append(await mean(client, body))
    np.testing.assert_allclose(means[0], means[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(means[0], means[2], rtol=1e-4, atol=1e-5)


@settings(max_examples=60)
@given(configs())
def test_operations_are_counted_as_torch_counts_them(config):
    vae = VAE(config).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        vae.posterior(torch.zeros(1, *config.image_shape))
        vae.likelihood(torch.zeros(1, *config.latent_shape))
    assert operations(vae) == counter.get_total_flops()


@pytest.mark.parametrize(("config", "laborious"), [(DIGITS, False), (COLOUR, False), (LABORIOUS, True)])
def test_how_much_work_an_image_is_is_counted(config, laborious):
    assert is_laborious(VAE(config)) is laborious


@pytest.mark.parametrize(("runtime", "query"), [("onnxruntime", ""), ("auto", "?samples=1&seed=1")])
async def test_a_laborious_image_that_comes_alone_has_all_cores_and_the_bits_that_it_has_in_company(
    runtime, query, tmp_path
):
    model = write(tmp_path / "model", LABORIOUS)
    app = create_app(Settings(model=model, device="cpu", max_batch_size=2, runtime=runtime))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64), np.uint8)
    async with running(app) as client:
        served = app.state.services.engine.served
        assert (served.networks.alone is not served.networks.exact) == (cores() > 1)
        assert served.apart
        together = await mean(client, write_npy(pixels), query)
        alone = [row for n in range(2) for row in await mean(client, write_npy(pixels[n : n + 1]), query)]
        assert alone == together


@pytest.mark.parametrize(
    ("settings", "copies"),
    [({"threads": 1}, 2), ({"threads": 1, "runtime": "onnxruntime"}, 1), ({"runtime": "torch"}, 1)],
)
def test_where_threads_are_numbered_or_torch_serves_there_is_no_copy_for_one_image_alone(settings, copies, tmp_path):
    app = create_app(Settings(model=write(tmp_path / "model", LABORIOUS), device="cpu", **settings))
    networks = app.state.services.engine.served.networks
    assert networks.alone is networks.exact
    assert len({id(networks.exact), id(networks.swift)}) == copies


async def mean(client: httpx.AsyncClient, body: bytes, query: str = "") -> list[list[float]]:
    answer = await client.post(f"/encode{query}", content=body, headers={"content-type": "application/x-npy"})
    return [latent["mean"] for latent in answer.json()["latents"]]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted on Linux")
def test_a_network_by_onnx_runtime_keeps_no_copy_of_its_graph():
    vae = VAE(VAEConfig(image_shape=(1, 64, 64), latent_shape=(16,), hidden=(4096,))).eval()
    weights = sum(weight.nbytes for weight in vae.parameters())
    trim()
    before = resident()
    other = compiled(vae)
    trim()
    assert resident() - before < 1.5 * weights
    assert other.posterior(torch.zeros(1, 1, 64, 64)).mean.shape == (1, 16)
