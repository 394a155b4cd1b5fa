"""Statistics of images at the mean of the posterior: their definitions, and the models that lack some."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from model.formats.native import model_of
from model.interface import DecodedImage, DeterministicCode, FixedSize
from model.statistics import MAX_CODE, code_length, image_statistics, statistic_names
from tests.support.models import COLOUR, DIGITS, build


@pytest.fixture(params=[DIGITS, COLOUR], ids=["digits", "colour"])
def model(request):
    return model_of(build(request.param))


def images(model, count=5):
    return torch.rand(count, *model.spec.image_shape, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def test_each_statistic_is_that_of_its_name(model):
    x = images(model)
    found = image_statistics(model, x)
    values = dict(zip(statistic_names(model.spec), found.values.T, strict=True))
    q = model.posterior(x)
    p = model.likelihood(q.mean)
    residual = x - p.mean
    assert_close(values["reconstruction"], p.log_prob(x))
    assert_close(values["kl"], q.kl_to_standard())
    assert_close(values["squared_error"], (residual**2).mean((1, 2, 3)))
    assert_close(values["largest_residual"], residual.abs().amax((1, 2, 3)))
    assert_close(values["norm"], (q.mean.flatten(1) ** 2).sum(1))
    assert_close(values["spread"], q.logvar.flatten(1).sum(1))
    side = max(1, min(x.shape[-2:]) // 7)
    patches = residual.unfold(2, side, 1).unfold(3, side, 1).mean((-2, -1))
    assert_close(values["largest_patch_residual"], patches.abs().amax((1, 2, 3)))
    assert_close(found.code, q.mean.flatten(1))


@torch.inference_mode()
def test_the_statistics_of_an_image_do_not_depend_on_its_batch(model):
    x = images(model)
    together, alone = image_statistics(model, x), image_statistics(model, x[2:3])
    assert_close(alone.values[0], together.values[2])
    assert_close(alone.code[0], together.code[2])


class Autoencoder:
    """A deterministic autoencoder without a density, of latents with many values."""

    def __init__(self, spec):
        self.spec = spec

    def posterior(self, x):
        return DeterministicCode(torch.stack([x[:, 0]] * 4, 1))

    def likelihood(self, z):
        return DecodedImage(z[:, :1])


def test_a_model_without_density_and_variance_has_the_other_statistics_and_a_short_code():
    spec = replace(
        model_of(build(DIGITS)).spec, likelihood=None, has_variance=False, sizes=FixedSize((8, 8), (4, 8, 8))
    )
    model = Autoencoder(spec)
    x = images(model)
    found = image_statistics(model, x)
    assert statistic_names(spec) == ("squared_error", "largest_residual", "largest_patch_residual", "norm")
    assert found.values.shape == (5, 4)
    assert not found.values[:, :3].any()
    assert found.code.shape == (5, MAX_CODE) == (5, code_length(spec))
    assert np.isclose(found.code.mean(), x.mean(), atol=1e-6)
