"""Statistics of images at the mean of the posterior: their definitions, and the models that lack some."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from model.formats.native import model_of
from model.interface import DecodedImage, DeterministicCode, FixedSize
from model.statistics import MAX_CODE, TINY, code_length, image_statistics, statistic_names
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
    assert_close(values["relative_sharpness"], log_sharpness(x) - log_sharpness(p.mean))
    assert_close(values["relative_contrast"], log_contrast(x) - log_contrast(p.mean))


def log_sharpness(x):
    padded, ones = torch.nn.functional.pad(x, (1, 1, 1, 1)), torch.nn.functional.pad(torch.ones_like(x), (1, 1, 1, 1))
    sums, counts = (of.unfold(2, 3, 1).unfold(3, 3, 1).sum((-2, -1)) for of in (padded, ones))
    return ((x - sums / counts) ** 2).mean((1, 2, 3)).add(TINY).log()


def log_contrast(x):
    gradients = torch.cat([(x[..., 1:] - x[..., :-1]).flatten(1), (x[..., 1:, :] - x[..., :-1, :]).flatten(1)], 1)
    pixels = x[0].numel()
    return ((gradients**2).sum(1) / pixels + TINY).log() - (gradients.abs().sum(1) / pixels + TINY).log()


@torch.inference_mode()
def test_a_blurred_image_is_less_sharp_and_has_less_contrast_beside_one_reconstruction():
    x = images(model_of(build(DIGITS)), 4).round()
    places = [statistic_names(Autoencoder.SPEC).index(name) for name in ("relative_sharpness", "relative_contrast")]
    model = Autoencoder(Autoencoder.SPEC, reconstruction=torch.full_like(x, 0.5))
    smooth = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    sharp, blurred = (image_statistics(model, y).values[:, places] for y in (x, smooth))
    assert (blurred < sharp - 0.5).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3)])
def test_the_statistics_of_images_of_any_size_are_finite(size):
    model = Autoencoder(replace(Autoencoder.SPEC, sizes=FixedSize(size, (4, *size))))
    assert image_statistics(model, torch.rand(2, 1, *size)).values.isfinite().all()


@torch.inference_mode()
def test_the_statistics_of_an_image_do_not_depend_on_its_batch(model):
    x = images(model)
    together, alone = image_statistics(model, x), image_statistics(model, x[2:3])
    assert_close(alone.values[0], together.values[2])
    assert_close(alone.code[0], together.code[2])


class Autoencoder:
    """A deterministic autoencoder without a density, of latents with many values."""

    SPEC = replace(
        model_of(build(DIGITS)).spec, likelihood=None, has_variance=False, sizes=FixedSize((8, 8), (4, 8, 8))
    )

    def __init__(self, spec, reconstruction=None):
        self.spec = spec
        self.reconstruction = reconstruction

    def posterior(self, x):
        return DeterministicCode(torch.stack([x[:, 0]] * 4, 1))

    def likelihood(self, z):
        return DecodedImage(z[:, :1] if self.reconstruction is None else self.reconstruction)


def test_a_model_without_density_and_variance_has_the_other_statistics_and_a_short_code():
    model, spec = Autoencoder(Autoencoder.SPEC), Autoencoder.SPEC
    x = images(model)
    found = image_statistics(model, x)
    errors = ("squared_error", "largest_residual", "largest_patch_residual")
    assert statistic_names(spec) == (*errors, "norm", "relative_sharpness", "relative_contrast")
    assert found.values.shape == (5, 6)
    assert not found.values[:, [0, 1, 2, 4, 5]].any()
    assert found.code.shape == (5, MAX_CODE) == (5, code_length(spec))
    assert np.isclose(found.code.mean(), x.mean(), atol=1e-6)
