"""Tests of the diagonal Gaussian: density, draws, gradients and KL divergence."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, kl_divergence
from torch.testing import assert_close

from model.gaussian import DiagonalGaussian

DRAWS = 20_000
SIGMAS = 5  # the standard errors that a statistic may be off


@pytest.fixture(params=[(5,), (2, 2, 3)], ids=["vector", "spatial"])
def q(request, device):
    mean, logvar = torch.randn(2, 4, *request.param, dtype=torch.float64, device=device)
    return DiagonalGaussian(mean.requires_grad_(), logvar.requires_grad_())


def sigma(q):
    return q.logvar.exp().sqrt()


def in_torch(q):
    return Independent(Normal(q.mean, sigma(q)), q.mean.dim() - 1)


def test_the_standard_deviation_is_the_root_of_the_variance(q):
    assert_close(q.std**2, q.logvar.exp())


@pytest.mark.parametrize("leading", [(), (6,), (2, 3)])
def test_the_density_agrees_with_torch_distributions(q, leading):
    z = torch.randn(*leading, *q.mean.shape).to(q.mean)
    assert q.log_prob(z).shape == (*leading, 4)
    assert_close(q.log_prob(z), in_torch(q).log_prob(z))


def test_the_density_is_finite_for_extreme_variances():
    logvar = torch.linspace(-80, 80, 33)[:, None]
    q = DiagonalGaussian(torch.zeros_like(logvar), logvar)
    assert q.log_prob(q.rsample(9)).isfinite().all()


def test_the_kl_agrees_with_torch_distributions(q):
    standard = Independent(Normal(torch.zeros_like(q.mean), 1), q.mean.dim() - 1)
    assert q.kl_to_standard().shape == (4,)
    assert_close(q.kl_to_standard(), kl_divergence(in_torch(q), standard))


def test_the_kl_between_two_gaussians_agrees_with_torch_distributions(q):
    other = DiagonalGaussian(torch.randn_like(q.mean), torch.randn_like(q.logvar))
    assert_close(q.kl_to(other), kl_divergence(in_torch(q), in_torch(other)))
    assert_close(q.kl_to(DiagonalGaussian.standard(q.mean)), q.kl_to_standard())
    assert (q.kl_to(q) == 0).all()


def test_the_kl_is_the_expected_log_ratio_of_the_densities(q):
    z = q.rsample(DRAWS)
    ratio = (q.log_prob(z) - DiagonalGaussian.standard(q.mean).log_prob(z)).detach()
    error = ratio.std(0) / DRAWS**0.5
    assert ((ratio.mean(0) - q.kl_to_standard()).abs() < SIGMAS * error).all()


numbers = st.just(0.0) | st.floats(1e-3, 20) | st.floats(-20, -1e-3)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=4))
def test_the_kl_is_zero_at_the_standard_normal_and_positive_elsewhere(latents):
    mean, logvar = torch.tensor(latents, dtype=torch.float64).T[:, None]
    kl = DiagonalGaussian(mean, logvar).kl_to_standard().item()
    assert (kl > 0) == any(mean or logvar for mean, logvar in latents)
    assert kl >= 0


@pytest.mark.parametrize("width", [1e-1, 1e-2, 1e-3, 1e-5])
def test_the_kl_is_never_negative_in_single_precision(device, width):
    logvar = torch.linspace(-width, width, 4001, device=device)[:, None]
    assert (DiagonalGaussian(torch.zeros_like(logvar), logvar).kl_to_standard() >= 0).all()


def test_the_prior_is_standard_normal_with_shape_and_dtype_of_the_argument(q):
    prior = DiagonalGaussian.standard(q.mean)
    assert (prior.mean.dtype, prior.mean.device, prior.mean.shape) == (q.mean.dtype, q.mean.device, q.mean.shape)
    assert_close(prior.log_prob(q.mean), Normal(0, 1).log_prob(q.mean).flatten(1).sum(1))
    assert (prior.kl_to_standard() == 0).all()


def test_the_draws_have_the_mean_and_variance_of_the_posterior(q):
    z = q.rsample(DRAWS).detach()
    assert z.shape == (DRAWS, *q.mean.shape)
    assert ((z.mean(0) - q.mean).abs() < SIGMAS * sigma(q) / DRAWS**0.5).all()
    assert ((z.var(0) / q.logvar.exp() - 1).abs() < SIGMAS * (2 / DRAWS) ** 0.5).all()


def test_latents_have_independent_noise(q):
    noise = ((q.rsample(DRAWS) - q.mean) / sigma(q)).detach().flatten(1)
    correlation = noise.T @ noise / DRAWS - torch.eye(noise.shape[1]).to(noise)
    assert correlation.fill_diagonal_(0).abs().max() < SIGMAS / DRAWS**0.5
    successive = (noise[1:] * noise[:-1]).mean(0)
    assert successive.abs().max() < SIGMAS / DRAWS**0.5


@pytest.mark.parametrize("leading", [(), (6,), (2, 3)])
def test_a_draw_is_the_mean_plus_sigma_times_the_noise(q, leading):
    noise = torch.randn(*leading, *q.mean.shape).to(q.mean)
    assert_close(q.reparameterize(noise), q.mean + sigma(q) * noise)
    assert torch.equal(q.reparameterize(torch.zeros_like(noise)), q.mean.expand_as(noise))


def test_a_seed_determines_the_draws_without_using_the_global_generator(q, device):
    state = torch.random.get_rng_state()
    first, again, other = (q.rsample(3, torch.Generator(device).manual_seed(seed)) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).any()
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_noise_is_drawn_in_the_precision_of_the_posterior(device, dtype):
    noise = DiagonalGaussian.standard(torch.empty(20, 3, dtype=dtype, device=device)).rsample()
    assert noise.dtype == dtype
    assert torch.equal(noise, noise.float().to(dtype)) == (dtype == torch.float32)


def test_draws_are_differentiable_in_mean_and_logvar(q):
    noise = torch.randn(1, *q.mean.shape).to(q.mean)
    to_mean, to_logvar = torch.autograd.grad(q.reparameterize(noise).sum(), [q.mean, q.logvar])
    assert_close(to_mean, torch.ones_like(q.mean))
    assert_close(to_logvar, 0.5 * sigma(q) * noise[0])


def test_the_gradient_of_an_expectation_agrees_with_its_closed_form(device):
    """With f(z) = 3 z^2 - 2 z: E[f] = 3 (mu^2 + sigma^2) - 2 mu, so d/dmu = 6 mu - 2 and d/dlogvar = 3 sigma^2."""
    mean, logvar = (torch.full((DRAWS, 1), value, dtype=torch.float64, device=device) for value in (0.7, -0.4))
    q = DiagonalGaussian(mean.requires_grad_(), logvar.requires_grad_())
    z = q.rsample()
    gradients = torch.autograd.grad((3 * z**2 - 2 * z).sum(), [mean, logvar])
    for gradient, expected in zip(gradients, (6 * mean - 2, 3 * logvar.exp()), strict=True):
        assert (gradient.mean() - expected[0, 0]).abs() < SIGMAS * gradient.std() / DRAWS**0.5


def test_a_spatial_latent_has_the_density_of_its_flattened_form(device):
    mean, logvar, z, noise = torch.randn(4, 3, 2, 4, 5, dtype=torch.float64, device=device)
    spatial, flat = DiagonalGaussian(mean, logvar), DiagonalGaussian(mean.flatten(1), logvar.flatten(1))
    assert_close(spatial.log_prob(z), flat.log_prob(z.flatten(1)))
    assert_close(spatial.kl_to_standard(), flat.kl_to_standard())
    assert_close(spatial.reparameterize(noise).flatten(1), flat.reparameterize(noise.flatten(1)))
