"""The runtime is the one of the settings or the fastest, and all runtimes compute the same."""

import logging
import re
import sys
from dataclasses import replace
from itertools import product

import httpx
import numpy as np
import pytest
import torch

from app.batching.rows import RowBatch
from app.codecs.images import write_npy
from app.inference.device import TorchDevice
from app.inference.memory import resident, trim
from app.main import create_app
from app.runtimes.base import Target
from app.runtimes.mixed import MixedRuntime
from app.runtimes.mnn import MnnRuntime
from app.runtimes.onnx import OnnxModel, OnnxRuntime, with_networks
from app.runtimes.operations import examples
from app.runtimes.selection import MIN_SPEEDUP, allowed_runtimes, compile_model, mnn_is_installed
from app.runtimes.torch_eager import TorchRuntime
from app.settings import Settings, SettingsError
from model.config import VAEConfig
from model.files import CheckpointError
from model.formats.native import model_of
from model.vae import VAE
from tests.support.apps import running
from tests.support.models import COMPUTE_BOUND, DIGITS, build, write

pytestmark = pytest.mark.anyio

RUNTIMES = ["torch", "onnxruntime", *(["mnn"] if mnn_is_installed() else [])]
CPU, CUDA = (Target(torch.device(name)) for name in ("cpu", "cuda:0"))
SMALL, LARGE = model_of(VAE(DIGITS)), model_of(VAE(COMPUTE_BOUND))


def test_auto_compares_runtimes_for_a_large_model_on_a_cpu():
    assert allowed_runtimes(Settings(), CPU, LARGE)[:2] == ("onnxruntime", "torch")
    assert allowed_runtimes(Settings(), CPU, SMALL) == ("onnxruntime",)
    assert allowed_runtimes(Settings(batch_invariant=True), CPU, LARGE) == ("onnxruntime",)
    assert allowed_runtimes(Settings(), Target(CPU.device, "bfloat16"), LARGE) == ("torch",)
    assert allowed_runtimes(Settings(), CUDA, LARGE) == ("torch",)


def test_auto_takes_the_fastest_runtime_and_logs_what_it_measured(caplog):
    caplog.set_level(logging.INFO, "app.runtimes.selection")
    compiled = compile_model(model_of(build(COMPUTE_BOUND)), Settings(max_batch_size=2), CPU)
    (line,) = [record.getMessage() for record in caplog.records]
    chosen, figures = re.fullmatch(r"runtime: (\w+); ms per image in batches of 1 and 2: (.*)", line).groups()
    assert compiled.runtime == chosen
    pairs = (entry.split() for entry in figures.split(", "))
    milliseconds = {name: float(single) * float(batch) for name, single, batch in pairs}
    milliseconds["onnxruntime"] /= MIN_SPEEDUP**2
    assert milliseconds[chosen] <= 1.1 * min(milliseconds.values())  # the figures are rounded


def test_seeded_requests_are_computed_by_onnx_runtime_whatever_runtime_auto_takes():
    model = model_of(build(COMPUTE_BOUND))
    rows = examples(model.spec, 2)["reconstruct"]
    rows.columns[0][:] = np.random.default_rng(0).integers(0, 256, rows.columns[0].shape)
    expected = OnnxRuntime().compile(model, CPU).run("encode", RowBatch(rows.columns[:1]))
    for fast in (OnnxRuntime(), TorchRuntime(), *([MnnRuntime()] if mnn_is_installed() else [])):
        found = MixedRuntime(fast).compile(model, CPU).run("encode", RowBatch(rows.columns[:1]), deterministic=True)
        assert all(np.array_equal(a, b) for a, b in zip(found.columns, expected.columns, strict=True))


@pytest.mark.parametrize("model", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtime_in_the_settings_is_the_only_one(runtime, model):
    assert allowed_runtimes(Settings(runtime=runtime), CPU, model) == (runtime,)


@pytest.mark.parametrize("runtime", ["onnxruntime", "mnn"])
@pytest.mark.parametrize("target", [Target(CPU.device, "bfloat16"), CUDA], ids=["bfloat16", "cuda"])
def test_a_runtime_that_does_not_fit_device_or_precision_is_refused(runtime, target):
    expected = f"{runtime} serves float32 on a CPU, not {target.precision} on {target.device.type}"
    with pytest.raises(SettingsError, match=expected):
        allowed_runtimes(Settings(runtime=runtime), target, SMALL)


@pytest.mark.skipif(mnn_is_installed(), reason="MNN is installed")
def test_a_runtime_that_is_not_installed_is_refused():
    with pytest.raises(SettingsError, match="mnn is not installed; pip install"):
        allowed_runtimes(Settings(runtime="mnn"), CPU, SMALL)


def test_mnn_is_refused_where_results_must_be_batch_invariant():
    with pytest.raises(SettingsError, match="mnn serves on Linux, where answers may depend on the load"):
        allowed_runtimes(Settings(runtime="mnn", batch_invariant=True), CPU, LARGE)


def test_networks_too_large_for_a_graph_are_refused():
    with torch.device("meta"):  # weights without memory
        vae = VAE(VAEConfig(image_shape=(1, 8, 8), latent_shape=(4,), hidden=(30_000, 30_000)))
    with pytest.raises(CheckpointError, match="only VAE_RUNTIME=torch serves them"):
        with_networks(model_of(vae))


async def test_all_runtimes_serve_the_same_results_and_are_named_by_the_model_endpoint(serve):
    body = write_npy(np.random.default_rng(0).integers(0, 256, (9, 8, 8), np.uint8))
    means = []
    for runtime in RUNTIMES:
        async with serve(runtime=runtime, device="cpu") as client:
            model = (await client.get("/model")).json()
            assert (model["runtime"], model["batch_invariant"]) == (runtime, runtime == "onnxruntime")
            means.append(await mean(client, body))
    for other in means[1:]:
        np.testing.assert_allclose(other, means[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [DIGITS, COMPUTE_BOUND], ids=["small", "large"])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(("runtime", "precision"), [*product(RUNTIMES, ["float32"]), ("torch", "bfloat16")])
def test_every_runtime_decodes_to_floats_that_round_to_the_grey_levels(runtime, precision, deterministic, config):
    model, settings = model_of(build(config)), Settings(runtime=runtime, precision=precision)
    compiled = compile_model(model, settings, Target(CPU.device, precision))
    rows = RowBatch((np.random.default_rng(0).standard_normal((3, *model.spec.latent_shape), np.float32),))
    ((levels,), (floats,)) = (
        compiled.run(operation, rows, deterministic=deterministic).columns for operation in ("decode", "decode_floats")
    )
    with torch.inference_mode():
        expected = model.likelihood(torch.from_numpy(rows.columns[0])).mean.numpy()
    assert floats.dtype == np.float32
    assert (np.rint(floats * 255) == levels).mean() > (0.999 if precision == "float32" else 0.5)
    np.testing.assert_allclose(floats, expected, atol=1e-5 if precision == "float32" else 2e-2)


@pytest.mark.parametrize(("runtime", "query"), [("onnxruntime", ""), ("auto", "?samples=1&seed=1")])
async def test_a_single_image_of_a_large_model_has_the_bits_that_it_has_in_a_batch(runtime, query, tmp_path):
    model = write(tmp_path / "model", COMPUTE_BOUND)
    app = create_app(Settings(model=model, device="cpu", max_batch_size=2, runtime=runtime))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64), np.uint8)
    async with running(app) as client:
        together = await mean(client, write_npy(pixels), query)
        single = [row for n in range(2) for row in await mean(client, write_npy(pixels[n : n + 1]), query)]
        assert single == together


@pytest.mark.parametrize(
    ("config", "max_threads", "copy"), [(COMPUTE_BOUND, 2, True), (COMPUTE_BOUND, 1, False), (DIGITS, 2, False)]
)
def test_only_a_large_model_on_several_cores_has_networks_for_single_rows(config, max_threads, copy):
    compiled = OnnxRuntime().compile(model_of(build(config)), Target(CPU.device, "float32", 1, max_threads))
    assert isinstance(compiled, OnnxModel)
    assert compiled.has_single_row_networks is copy


async def mean(client: httpx.AsyncClient, body: bytes, query: str = "") -> list[list[float]]:
    response = await client.post(f"/encode{query}", content=body, headers={"content-type": "application/x-npy"})
    return [latent["mean"] for latent in response.json()["latents"]]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux")
def test_onnx_runtime_keeps_no_copy_of_a_graph():
    vae = VAE(VAEConfig(image_shape=(1, 64, 64), latent_shape=(16,), hidden=(4096,))).eval()
    weights = sum(weight.nbytes for weight in vae.parameters())
    trim()
    before = resident()
    other = with_networks(model_of(vae))
    trim()
    assert resident() - before < 1.5 * weights
    assert other.posterior(torch.zeros(1, 1, 64, 64)).mean.shape == (1, 16)


def test_a_model_that_overflows_in_float16_is_computed_in_float32():
    spec, target = SMALL.spec, Target(CUDA.device, "float16")
    assert target.for_model(spec).precision == "float16"
    assert target.for_model(replace(spec, overflows_float16=True)).precision == "float32"


def test_float16_is_refused_on_a_cpu():
    with pytest.raises(SettingsError, match="precision: expected float32 or bfloat16 on a CPU, got float16"):
        TorchDevice(Settings(device="cpu", precision="float16"))
