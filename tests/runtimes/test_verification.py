"""A likelihood that overrides a formula of its base is served by that formula, by every runtime."""

import io
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.main import create_app
from app.runtimes.onnx_operations import OPERATION_GRAPHS, OnnxOperation
from app.runtimes.selection import mnn_is_installed
from app.runtimes.verification import differing
from app.settings import Settings
from model.likelihoods import FAMILIES, Bernoulli, DiscretisedLogistic
from model.vae import VAE
from tests.support.apps import running
from tests.support.configs import configs
from tests.support.models import COLOUR, DIGITS, build, write

pytestmark = pytest.mark.anyio

needs_mnn = pytest.mark.skipif(not mnn_is_installed(), reason="MNN is not installed")

NPY = {"Accept": "application/x-npy"}


class Clamped(Bernoulli):
    """A likelihood with the clamped output of the network as its mean."""

    @property
    def mean(self):
        return self.logits.clamp(0, 1)


class Inverted(DiscretisedLogistic):
    """A likelihood with two parameters and the inverted mean of its base."""

    @property
    def mean(self):
        return 1 - super().mean


@pytest.fixture(params=[Clamped, Inverted], ids=["clamped", "inverted"])
def family(request):
    FAMILIES["own"] = request.param
    yield "own"
    del FAMILIES["own"]


def graphs(vae: VAE) -> dict[str, OnnxOperation]:
    return {operation: OnnxOperation(operation, vae, 1) for operation in OPERATION_GRAPHS}


def array(response) -> np.ndarray:
    assert response.status_code == 200, response.text
    return np.load(io.BytesIO(response.content), allow_pickle=False)


@pytest.mark.parametrize("runtime", ["auto", "onnxruntime", pytest.param("mnn", marks=needs_mnn), "torch"])
async def test_an_overridden_mean_is_served(family, runtime, tmp_path, digits, caplog):
    config = replace(DIGITS, likelihood=family)
    model = write(tmp_path / "model", config)
    latents = torch.randn(5, 4)
    with torch.inference_mode():
        vae = build(config)
        decoded = vae.likelihood(latents).mean.numpy() * 255
        reconstructed = vae.likelihood(vae.posterior(torch.from_numpy(digits[:5]) / 255).mean).mean.numpy() * 255
    app = create_app(Settings(model=model, device="cpu", threads=1, max_batch_size=8, runtime=runtime))
    async with running(app) as client:
        answer = array(await client.post("/decode", json={"latents": latents.tolist()}, headers=NPY))
        assert np.abs(answer.transpose(0, 3, 1, 2) - decoded).max() <= 0.51
        body = io.BytesIO()
        np.save(body, digits[:5, 0])
        kind = {"content-type": "application/x-npy"}
        answer = array(await client.post("/reconstruct", content=body.getvalue(), headers={**NPY, **kind}))
        assert np.abs(answer.transpose(0, 3, 1, 2) - reconstructed).max() <= 0.51
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    text = "decode, reconstruct: the ONNX graph gives other results than torch"
    assert any(text in warning for warning in warnings) == (runtime in ("auto", "onnxruntime"))


@settings(max_examples=40)
@given(configs(), st.integers(0, 3))
def test_the_graphs_of_every_architecture_agree_with_torch(config, seed):
    vae = build(config, seed)
    assert not list(differing(vae, graphs(vae)))


def test_graphs_with_other_weights_differ():
    for config in (DIGITS, COLOUR):
        assert list(differing(build(config, 1), graphs(build(config, 2))))
