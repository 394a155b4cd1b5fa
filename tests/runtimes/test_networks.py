"""ONNX Runtime and MNN compute the networks of torch, report nothing to their makers, and print nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from app.runtimes.mnn import MnnNetwork
from app.runtimes.onnx import OnnxNetwork, with_networks
from app.runtimes.selection import mnn_is_installed
from model.formats.native import model_of
from model.vae import VAE
from tests.support.configs import configs
from tests.support.models import COLOUR, DIGITS, build

COMPILE = """
import sys
from pathlib import Path
from app.runtimes.mnn import MnnNetwork
from app.runtimes.onnx import with_networks
from model.checkpoint import read_checkpoint
from model.formats.native import native_model
model = native_model(read_checkpoint(Path(sys.argv[1])))
with_networks(model), with_networks(model, 1, MnnNetwork)
assert "MNN.tools.utils.log" not in sys.modules
"""

NO_MEMORY = """
import resource, sys
from pathlib import Path
import torch
from app.inference.device_errors import diagnose
from app.batching.executor import OutOfMemory
from app.runtimes.mnn import MnnNetwork
from model.checkpoint import read_checkpoint
network = MnnNetwork(read_checkpoint(Path(sys.argv[1])).vae.encoder.network, (1, 8, 8), 1)
x = torch.rand(400_000, 1, 8, 8)
with torch.inference_mode():
    before = network(x[:4])
    limit = 2 * x.nbytes + int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        network(x)
    except Exception as failure:
        assert isinstance(diagnose(failure, x.device), OutOfMemory), failure
    else:
        raise AssertionError("there was memory")
    assert torch.equal(network(x[:4]), before)
"""

pytestmark = pytest.mark.usefixtures("_inference")


needs_mnn = pytest.mark.skipif(not mnn_is_installed(), reason="MNN is not installed")


@pytest.fixture(
    scope="module", params=[OnnxNetwork, pytest.param(MnnNetwork, marks=needs_mnn)], ids=["onnxruntime", "mnn"]
)
def network(request):
    return request.param


@pytest.fixture
def _inference():
    with torch.inference_mode():
        yield


def compiled(vae: VAE, threads: int = 1, network=OnnxNetwork) -> VAE:
    return with_networks(model_of(vae), threads, network).vae


@pytest.mark.parametrize("config", [DIGITS, COLOUR], ids=["digits", "colour"])
@pytest.mark.parametrize("leading", [(1,), (7,), (2, 3)])
def test_a_compiled_vae_has_the_posteriors_and_likelihoods_of_torch(network, config, leading):
    vae = build(config)
    x, z = torch.rand(7, *config.image_shape), torch.randn(*leading, *config.latent_shape)
    q, p = vae.posterior(x), vae.likelihood(z)
    other = compiled(vae, 1, network)
    for weight in vae.parameters():
        weight.data.zero_()  # it shares none
    assert_close(other.posterior(x).mean, q.mean, rtol=1e-4, atol=1e-5)
    assert_close(other.posterior(x).logvar, q.logvar, rtol=1e-4, atol=1e-5)
    assert_close(other.likelihood(z).mean, p.mean, rtol=1e-4, atol=1e-5)
    assert not [*other.parameters()]


@needs_mnn
@settings(max_examples=20)
@given(configs(), st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 2))
def test_mnn_computes_every_architecture_in_batches_of_changing_size(config, batches, threads):
    vae = build(config)
    other = compiled(vae, threads, MnnNetwork)
    for rows in batches:
        x, z = torch.rand(rows, *config.image_shape), torch.randn(rows, *config.latent_shape)
        assert_close(other.encoder.network(x), vae.encoder.network(x), rtol=1e-4, atol=1e-5)
        assert_close(other.decoder.network(z), vae.decoder.network(z), rtol=1e-4, atol=1e-5)


def test_a_result_is_not_overwritten_by_the_next_batch(network):
    other = compiled(build(DIGITS), 1, network)
    x = torch.rand(4, *DIGITS.image_shape)
    first = other.encoder.network(x[:2])
    kept = first.clone()
    other.encoder.network(x[2:])
    assert torch.equal(first, kept)


def test_pixels_may_have_any_memory_format(network):
    vae = build(COLOUR)
    x = torch.rand(5, *COLOUR.image_shape).contiguous(memory_format=torch.channels_last)
    assert_close(compiled(vae, 1, network).posterior(x).mean, vae.posterior(x).mean, rtol=1e-4, atol=1e-5)


@needs_mnn
def test_compiling_sends_no_telemetry_and_prints_nothing(digits_model, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE, str(digits_model)]
    ended = subprocess.run(command, env=environment, check=True, cwd=Path(__file__).parents[2], capture_output=True)
    assert not [*tmp_path.iterdir()]  # telemetry would keep an identifier of the machine and unsent reports there
    assert (ended.stdout, ended.stderr) == (b"", b"")


@needs_mnn
def test_mnn_reports_a_lack_of_memory_and_computes_the_next_batch(digits_model):
    command = [sys.executable, "-c", NO_MEMORY, str(digits_model)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL)
