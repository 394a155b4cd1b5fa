"""Weight normalisation starts from data, changes what is learned and never what is kept."""

from copy import deepcopy
from dataclasses import replace
from math import isfinite

import numpy as np
import pytest
import torch
from torch import nn

from model.checkpoint import Checkpoint
from model.config import VAEConfig
from model.training.options import TrainingOptions
from model.training.trainer import Training
from model.training.weight_norm import normalise, plain_weights, standardise
from model.vae import VAE
from tests.support.models import build

CONFIG = VAEConfig(image_shape=(1, 8, 8), latent_shape=(4,), stride=2, channels=(6, 8), blocks=(1, 1), hidden=(16,))
OPTIONS = TrainingOptions(epochs=3, batch_size=32, learning_rate=1e-2, warmup=5, ema=0.0, weight_norm=True)


@pytest.fixture
def vae() -> VAE:
    torch.manual_seed(1)
    return VAE(CONFIG)


def start(vae: VAE, x: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    standardise(vae, x, generator)
    normalise(vae, generator)


@pytest.fixture
def x(digits: np.ndarray) -> torch.Tensor:
    return torch.tensor(digits[:256]) / 255


def test_the_plain_weights_make_the_same_networks(vae, x):
    plain = deepcopy(vae)
    start(vae, x)
    plain.load_state_dict(plain_weights(vae))
    torch.testing.assert_close(plain.posterior(x).mean, vae.posterior(x).mean)
    z = vae.posterior(x).mean
    torch.testing.assert_close(plain.likelihood(z).mean, vae.likelihood(z).mean)


@pytest.mark.parametrize("silence", [False, True])
def test_a_trained_model_goes_on_with_it_as_the_function_that_it_is(digits: np.ndarray, silence):
    trained = build(CONFIG)
    with torch.no_grad():
        trained.encoder.network[0].weight[2:4] *= not silence  # an output may have nothing to say
    training = Training(CONFIG, digits[:600], OPTIONS, start=Checkpoint("trained", trained, "", 0))
    for networks in (training.average.state_dict(), plain_weights(training.vae)):
        for name, weight in trained.state_dict().items():
            torch.testing.assert_close(networks[name], weight, atol=1e-6, rtol=1e-5)


def test_the_plain_weights_of_an_unnormalised_vae_are_its_own(vae):
    own, plain = dict(vae.named_parameters()), plain_weights(vae)
    assert own.keys() == plain.keys()
    assert all(plain[name].equal(own[name]) for name in own)


def test_every_layer_that_speaks_starts_with_standardised_outputs(vae, x):
    start(vae, x)
    seen: dict[str, torch.Tensor] = {}
    for name, layer in vae.encoder.network.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
    vae.posterior(x)
    *inner, _ = seen
    speaking = [name for name in inner if not name.endswith("second")]
    assert len(speaking) == 5
    for name in speaking:
        output = seen[name].transpose(0, 1).flatten(1)
        torch.testing.assert_close(output.mean(1), torch.zeros(len(output)), atol=1e-4, rtol=0)
        torch.testing.assert_close(output.std(1), torch.ones(len(output)), atol=1e-2, rtol=0)


@pytest.mark.parametrize("count", [1, 64])
def test_an_output_that_is_the_same_for_all_images_starts_as_it_was(digits: np.ndarray, count):
    config = VAEConfig(image_shape=(1, 8, 8), latent_shape=(3,), hidden=(16,))
    alike = np.repeat(digits[:1], count, axis=0)
    training = Training(config, alike, replace(OPTIONS, epochs=2, binarize="none"))
    plain = Training(config, alike, replace(OPTIONS, weight_norm=False))
    for normalised, own in zip(training.average.encoder.parameters(), plain.average.encoder.parameters(), strict=True):
        torch.testing.assert_close(normalised, own)
    assert all(isfinite(record.elbo) for record in training.epochs())


def test_a_block_that_starts_as_the_identity_still_does_and_learns(vae, x):
    start(vae, x)
    silent = [module for name, module in vae.named_modules() if name.endswith("second")]
    assert len(silent) == 4
    assert not any(layer.weight.any() for layer in silent)
    vae.likelihood(vae.posterior(x).mean).log_prob(x).sum().backward()
    for layer in silent:
        length = layer.parametrizations.weight.original0
        assert length.grad is not None
        assert (length.grad != 0).all()


def test_training_with_it_climbs_and_keeps_plain_weights(digits: np.ndarray):
    training = Training(CONFIG, digits[:600], replace(OPTIONS, holdout=50))
    before = [weight.clone() for weight in training.average.parameters()]
    start = plain_weights(training.vae)
    assert all(start[name].equal(weight) for name, weight in training.average.named_parameters())
    records = list(training.epochs())
    assert records[-1].elbo > records[0].elbo + 2
    assert not any(a.equal(b) for a, b in zip(before, training.average.parameters(), strict=True))
    assert training.average.state_dict().keys() == VAE(CONFIG).state_dict().keys()
