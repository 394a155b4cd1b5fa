"""Whoever computes a network computes the same; nobody is told of it, and nothing is printed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from app.runtimes.selection import compiled
from app.runtimes.sessions import MnnNetwork, OnnxNetwork
from tests.support.configs import configs
from tests.support.models import COLOUR, DIGITS, build

COMPILE = """
import sys
from pathlib import Path
from app.runtimes.selection import compiled
from app.runtimes.sessions import MnnNetwork
from model.checkpoint import read_checkpoint
vae = read_checkpoint(Path(sys.argv[1])).vae
compiled(vae), compiled(vae, 1, MnnNetwork)
assert "MNN.tools.utils.log" not in sys.modules
"""

NO_ROOM = """
import resource, sys
from pathlib import Path
import torch
from app.inference.device_errors import diagnose
from app.batching.executor import OutOfMemory
from app.runtimes.sessions import MnnNetwork
from model.checkpoint import read_checkpoint
network = MnnNetwork(read_checkpoint(Path(sys.argv[1])).vae.encoder.network, (1, 8, 8), 1)
x = torch.rand(400_000, 1, 8, 8)
with torch.inference_mode():
    before = network(x[:4])
    room = 2 * x.nbytes + int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    try:
        network(x)
    except Exception as failure:
        assert isinstance(diagnose(failure, x.device), OutOfMemory), failure
    else:
        raise AssertionError("there was room")
    assert torch.equal(network(x[:4]), before)
"""

pytestmark = pytest.mark.usefixtures("_inference")


@pytest.fixture(scope="module", params=[OnnxNetwork, MnnNetwork], ids=["onnxruntime", "mnn"])
def network(request):
    return request.param


@pytest.fixture
def _inference():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("config", [DIGITS, COLOUR], ids=["digits", "colour"])
@pytest.mark.parametrize("leading", [(1,), (7,), (2, 3)])
def test_a_compiled_vae_has_the_same_posteriors_and_likelihoods(network, config, leading):
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


@settings(max_examples=40)
@given(configs(), st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 2))
def test_every_architecture_is_computed_by_mnn_whatever_the_batches_before(config, batches, threads):
    vae = build(config)
    other = compiled(vae, threads, MnnNetwork)
    for rows in batches:
        x, z = torch.rand(rows, *config.image_shape), torch.randn(rows, *config.latent_shape)
        assert_close(other.encoder.network(x), vae.encoder.network(x), rtol=1e-4, atol=1e-5)
        assert_close(other.decoder.network(z), vae.decoder.network(z), rtol=1e-4, atol=1e-5)


def test_an_answer_is_nobody_elses_memory(network):
    other = compiled(build(DIGITS), 1, network)
    x = torch.rand(4, *DIGITS.image_shape)
    first = other.encoder.network(x[:2])
    kept = first.clone()
    other.encoder.network(x[2:])
    assert torch.equal(first, kept)


def test_pixels_may_lie_in_memory_in_any_order(network):
    vae = build(COLOUR)
    x = torch.rand(5, *COLOUR.image_shape).contiguous(memory_format=torch.channels_last)
    assert_close(compiled(vae, 1, network).posterior(x).mean, vae.posterior(x).mean, rtol=1e-4, atol=1e-5)


def test_nothing_is_told_to_their_makers_and_nothing_is_printed(digits_model, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE, str(digits_model)]
    ended = subprocess.run(command, env=environment, check=True, cwd=Path(__file__).parents[2], capture_output=True)
    assert not [*tmp_path.iterdir()]  # where it would name this machine, and keep what it has not sent yet
    assert (ended.stdout, ended.stderr) == (b"", b"")


def test_mnn_without_memory_for_a_batch_says_so_and_serves_the_next(digits_model):
    command = [sys.executable, "-c", NO_ROOM, str(digits_model)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL)
