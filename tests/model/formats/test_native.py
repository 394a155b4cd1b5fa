"""Checkpoints of this project as image models."""

import pytest
import torch

from model.checkpoint import read_checkpoint
from model.formats.native import native_model
from model.interface import FixedSize, ImageModel, MultipleOfFactor


def test_the_spec_of_a_checkpoint_names_its_shapes_and_its_weights(colour_model):
    checkpoint = read_checkpoint(colour_model)
    model = native_model(checkpoint)
    spec, config = model.spec, checkpoint.vae.config
    assert isinstance(model, ImageModel)
    assert (spec.format, spec.identity) == ("native", checkpoint.identity)
    assert (spec.image_shape, spec.latent_shape) == (config.image_shape, config.latent_shape)
    assert (spec.likelihood, spec.parameters) == (config.likelihood, checkpoint.parameters)


def test_a_native_model_computes_what_its_vae_computes(digits_model):
    checkpoint = read_checkpoint(digits_model)
    model = native_model(checkpoint)
    x = torch.rand(3, *model.spec.image_shape)
    q = model.posterior(x)
    assert torch.equal(q.mean, checkpoint.vae.posterior(x).mean)
    assert torch.equal(model.likelihood(q.mean).mean, checkpoint.vae.likelihood(q.mean).mean)


def test_a_fixed_size_refuses_images_of_another_size():
    rule = FixedSize((8, 8), (4,))
    assert rule.latents_of(8, 8) == (4,)
    with pytest.raises(ValueError, match="expected images of 8 x 8 pixels, got 9 x 8"):
        rule.latents_of(8, 9)


def test_a_convolutional_model_takes_multiples_of_its_factor():
    rule = MultipleOfFactor(factor=8, minimum=64, maximum=1024, latent_channels=4)
    assert rule.latents_of(512, 768) == (4, 64, 96)
    for size in ((60, 64), (64, 1032), (56, 64)):
        with pytest.raises(ValueError, match="multiples of 8 from 64 to 1024"):
            rule.latents_of(*size)
