"""The floating-point operations of a model are counted without running it."""

import pytest
import torch
from hypothesis import given, settings
from torch.utils.flop_counter import FlopCounterMode

from app.runtimes.flops import count_flops, is_compute_bound
from model.vae import VAE
from tests.support.configs import configs
from tests.support.models import COLOUR, COMPUTE_BOUND, DIGITS


@settings(max_examples=60)
@given(configs())
def test_the_count_is_that_of_torch(config):
    vae = VAE(config).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        vae.posterior(torch.zeros(1, *config.image_shape))
        vae.likelihood(torch.zeros(1, *config.latent_shape))
    assert count_flops(vae) == counter.get_total_flops()


@pytest.mark.parametrize(("config", "compute_bound"), [(DIGITS, False), (COLOUR, False), (COMPUTE_BOUND, True)])
def test_a_model_with_many_operations_is_compute_bound(config, compute_bound):
    assert is_compute_bound(VAE(config)) is compute_bound
