"""Tests of evaluation metrics: agreement with the bounds, known values, reproducibility."""

from dataclasses import replace
from math import log
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.config import VAEConfig
from model.elbo import bounds
from model.evaluation.metrics import ChunkSizes, evaluate
from model.pixels import sample_binary
from model.vae import VAE
from tests.support.models import COLOUR, DIGITS, build


def silent(config: VAEConfig) -> VAE:
    """A VAE of weights 0: q is the prior, and every mean pixel is 1/2."""
    vae = VAE(config).eval()
    with torch.no_grad():
        for weight in vae.parameters():
            weight.zero_()
    return vae


def test_a_uniform_model_needs_one_bit_per_binary_pixel(digits: np.ndarray) -> None:
    table = evaluate(silent(DIGITS), digits[:70], samples=5)
    assert table.bits_per_dim == pytest.approx(1)
    assert table.elbo == pytest.approx(-64 * log(2))
    assert table.log_likelihood == pytest.approx(table.elbo)
    assert table.standard_error == pytest.approx(0, abs=1e-5)
    assert (table.kl, table.active_units, table.units) == (0, 0, 4)


@pytest.mark.parametrize(("level", "scale"), [(255, 0.5), (200, 0.5), (127, 0.001)])
def test_bits_of_a_density_are_those_of_the_mass_of_the_8_bit_level(level: int, scale: float) -> None:
    config = replace(DIGITS, likelihood="gaussian", scale=scale)
    table = evaluate(silent(config), np.full((3, 1, 8, 8), level, np.uint8), samples=2, binarize="none")
    normal = NormalDist(127.5, 255 * scale)  # the mean pixel of the model is 1/2
    mass = (1 if level == 255 else normal.cdf(level + 0.5)) - normal.cdf(level - 0.5)
    assert table.bits_per_dim == pytest.approx(-log(mass) / log(2), rel=1e-5)
    assert table.bits_per_dim >= 0


def test_the_figures_are_means_of_the_bounds_and_their_standard_error(digits: np.ndarray) -> None:
    vae, images = build(DIGITS), digits[:60]
    table = evaluate(vae, images, samples=20, binarize="none", seed=3, batch_size=60, chunk=7)
    torch.manual_seed(3)
    with torch.inference_mode():
        both = bounds(vae, torch.tensor(images) / 255, samples=20, chunk=7)
    assert table.elbo == pytest.approx(both.elbo.total.mean().item(), rel=1e-5)
    assert table.reconstruction == pytest.approx(both.elbo.reconstruction.mean().item(), rel=1e-5)
    assert table.kl == pytest.approx(both.elbo.kl.mean().item(), rel=1e-5)
    assert table.log_likelihood == pytest.approx(both.log_likelihood.mean().item(), rel=1e-5)
    assert table.standard_error == pytest.approx(both.log_likelihood.std().item() / 60**0.5, rel=1e-5)


def test_bfloat16_changes_the_figures_by_rounding_only(digits: np.ndarray) -> None:
    vae = build(DIGITS)
    full, half = (evaluate(vae, digits[:100], samples=20, precision=name) for name in ("float32", "bfloat16"))
    assert (full.precision, half.precision) == ("float32", "bfloat16")
    assert half.log_likelihood != full.log_likelihood
    assert half.log_likelihood == pytest.approx(full.log_likelihood, rel=2e-3)


def test_the_importance_weighted_bound_is_above_the_elbo_and_rises_with_its_draws(digits: np.ndarray) -> None:
    vae = build(DIGITS)
    few, many = (evaluate(vae, digits[:100], samples=samples) for samples in (2, 100))
    assert few.elbo < few.log_likelihood < many.log_likelihood
    assert many.elbo == pytest.approx(many.reconstruction - many.kl)


def test_the_same_seed_gives_the_same_figures(digits: np.ndarray) -> None:
    vae, before = build(DIGITS), torch.get_rng_state()
    first, again, other = (evaluate(vae, digits[:30], samples=4, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.elbo != other.elbo
    assert torch.get_rng_state().equal(before)


def test_binary_pixels_are_independent_of_the_batch_size(digits: np.ndarray) -> None:
    vae = build(DIGITS)
    alone, together = (evaluate(vae, digits[:30], samples=1, batch_size=size) for size in (1, 30))
    assert alone.kl == pytest.approx(together.kl, rel=1e-6)  # the KL takes no draw but the binarisation


@given(st.integers(1, 2**26), st.sampled_from([16, 256]))
def test_chunk_sizes_bound_the_number_of_values_in_memory(dimensions: int, draws: int) -> None:
    assert ChunkSizes.fitting(28 * 28, draws) == (50, draws)
    batch_size, chunk = ChunkSizes.fitting(dimensions, draws)
    assert batch_size * chunk * dimensions <= max(50 * draws * 28 * 28, dimensions)
    assert 1 <= batch_size <= 50
    assert 1 <= chunk <= draws


def test_pixels_are_drawn_batch_by_batch_from_one_generator(digits: np.ndarray) -> None:
    encoded: list[torch.Tensor] = []
    vae = build(DIGITS)
    vae.encoder.register_forward_pre_hook(lambda _, inputs: encoded.append(inputs[0]))
    evaluate(vae, digits, samples=1, seed=5, batch_size=500)
    x = sample_binary(torch.tensor(digits), torch.Generator().manual_seed(5))
    assert torch.cat(encoded[::2]).equal(x)  # each batch is encoded twice
    assert encoded[0].untyped_storage().nbytes() == encoded[0].nbytes


def test_colour_images_with_spatial_latents_are_evaluated() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 13, 9), np.uint8)
    table = evaluate(build(COLOUR), images, samples=3, binarize="none")
    assert (table.images, table.samples, table.units) == (7, 3, 24)
    assert np.isfinite([table.elbo, table.log_likelihood, table.bits_per_dim]).all()


def test_a_unit_with_constant_mean_is_not_active(digits: np.ndarray) -> None:
    vae = build(DIGITS)
    head = [layer for layer in vae.encoder.network if isinstance(layer, torch.nn.Linear)][-1]
    with torch.no_grad():
        head.weight.mul_(100)
        head.weight[1].zero_()
    assert evaluate(vae, digits[:50], samples=1).active_units == 3


def test_one_image_has_no_standard_error(digits: np.ndarray) -> None:
    assert evaluate(build(DIGITS), digits[:1], samples=2).standard_error is None


def test_progress_is_the_number_of_evaluated_images(digits: np.ndarray) -> None:
    counts: list[int] = []
    evaluate(build(DIGITS), digits[:25], samples=1, batch_size=10, progress=counts.append)
    assert counts == [10, 20, 25]
