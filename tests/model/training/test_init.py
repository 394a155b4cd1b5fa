"""Tests of the first weights of a training."""

import numpy as np
import pytest
import torch

from model.config import VAEConfig
from model.errors import OptionsError
from model.training.options import TrainingOptions
from model.training.trainer import Training

COLOUR = VAEConfig(
    image_shape=(3, 8, 8),
    latent_shape=(4, 2, 2),
    stride=2,
    channels=(8, 8),
    blocks=(1, 1),
    likelihood="logistic-shared",
    posterior="bounded",
)


def first(init: str) -> tuple[float, float]:
    """The mean deviation of the posterior and the spread of its means, of an untrained model."""
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 8, 8), np.uint8)
    training = Training(COLOUR, images, TrainingOptions(init=init, binarize="none"))
    with torch.inference_mode():
        q = training.average.posterior(torch.tensor(images) / 255)
    return q.std.mean().item(), q.mean.std(0).mean().item()


def test_latents_differ_by_more_than_their_noise_with_first_weights_by_the_data() -> None:
    noise, spread = first("data")
    assert noise < spread
    noise, spread = first("torch")
    assert noise > spread


def test_unknown_first_weights_are_refused() -> None:
    with pytest.raises(OptionsError, match="init: expected torch or data, got 'zeros'"):
        TrainingOptions(init="zeros")
