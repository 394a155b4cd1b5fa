"""Tests of weight normalisation and data-dependent initialisation."""

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
from model.training.weight_norm import apply_weight_norm, data_dependent_init, effective_weights
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
    data_dependent_init(vae, x, generator)
    apply_weight_norm(vae, generator)


@pytest.fixture
def x(digits: np.ndarray) -> torch.Tensor:
    return torch.tensor(digits[:256]) / 255


def test_the_effective_weights_give_the_same_networks(vae, x):
    plain = deepcopy(vae)
    start(vae, x)
    plain.load_state_dict(effective_weights(vae))
    torch.testing.assert_close(plain.posterior(x).mean, vae.posterior(x).mean)
    z = vae.posterior(x).mean
    torch.testing.assert_close(plain.likelihood(z).mean, vae.likelihood(z).mean)


@pytest.mark.parametrize("zero_rows", [False, True])
def test_weight_norm_does_not_change_the_function_of_a_trained_model(digits: np.ndarray, zero_rows):
    trained = build(CONFIG)
    with torch.no_grad():
        trained.encoder.network[0].weight[2:4] *= not zero_rows  # some outputs have zero weights
    training = Training(CONFIG, digits[:600], OPTIONS, start=Checkpoint("trained", trained, "", 0))
    for networks in (training.average.state_dict(), effective_weights(training.vae)):
        for name, weight in trained.state_dict().items():
            torch.testing.assert_close(networks[name], weight, atol=1e-6, rtol=1e-5)


def test_the_effective_weights_without_weight_norm_are_the_weights(vae):
    own, plain = dict(vae.named_parameters()), effective_weights(vae)
    assert own.keys() == plain.keys()
    assert all(plain[name].equal(own[name]) for name in own)


def test_outputs_of_inner_layers_are_standardised(vae, x):
    start(vae, x)
    seen: dict[str, torch.Tensor] = {}
    for name, layer in vae.encoder.network.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
    vae.posterior(x)
    *inner, _ = seen
    inner_names = [name for name in inner if not name.endswith("second")]
    assert len(inner_names) == 5
    for name in inner_names:
        output = seen[name].transpose(0, 1).flatten(1)
        torch.testing.assert_close(output.mean(1), torch.zeros(len(output)), atol=1e-4, rtol=0)
        torch.testing.assert_close(output.std(1), torch.ones(len(output)), atol=1e-2, rtol=0)


@pytest.mark.parametrize("count", [1, 64])
def test_a_constant_output_keeps_its_scale(digits: np.ndarray, count):
    config = VAEConfig(image_shape=(1, 8, 8), latent_shape=(3,), hidden=(16,))
    equal = np.repeat(digits[:1], count, axis=0)
    training = Training(config, equal, replace(OPTIONS, epochs=2, binarize="none"))
    plain = Training(config, equal, replace(OPTIONS, weight_norm=False))
    for normalised, own in zip(training.average.encoder.parameters(), plain.average.encoder.parameters(), strict=True):
        torch.testing.assert_close(normalised, own)
    assert all(isfinite(record.elbo) for record in training.epochs())


def test_a_residual_block_stays_the_identity_and_has_gradients(vae, x):
    start(vae, x)
    zero_layers = [module for name, module in vae.named_modules() if name.endswith("second")]
    assert len(zero_layers) == 4
    assert not any(layer.weight.any() for layer in zero_layers)
    vae.likelihood(vae.posterior(x).mean).log_prob(x).sum().backward()
    for layer in zero_layers:
        length = layer.parametrizations.weight.original0
        assert length.grad is not None
        assert (length.grad != 0).all()


def test_training_with_weight_norm_raises_the_elbo_and_saves_effective_weights(digits: np.ndarray):
    training = Training(CONFIG, digits[:600], replace(OPTIONS, holdout=50))
    before = [weight.clone() for weight in training.average.parameters()]
    start = effective_weights(training.vae)
    assert all(start[name].equal(weight) for name, weight in training.average.named_parameters())
    records = list(training.epochs())
    assert records[-1].elbo > records[0].elbo + 2
    assert not any(a.equal(b) for a, b in zip(before, training.average.parameters(), strict=True))
    assert training.average.state_dict().keys() == VAE(CONFIG).state_dict().keys()
