"""Tests of the bounds against known evidence: closed form, quadrature, and the sum over all binary images."""

from dataclasses import replace
from itertools import pairwise, product
from math import log

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.testing import assert_close

from model.config import VAEConfig
from model.elbo import bounds, elbo, log_likelihood
from model.likelihoods import FAMILIES, Gaussian
from tests.support.models import COLOUR, DIGITS, build

SIGMAS = 5  # the standard errors that a statistic may be off
SCALE = 0.5


class LinearGaussian(Gaussian):
    """Gaussian likelihood with an unbounded mean, for which p(x) is a Gaussian in closed form."""

    description = "the log-density of unbounded pixels"

    @property
    def mean(self):
        return self.logits


@pytest.fixture(params=[DIGITS, COLOUR], ids=["digits", "colour"])
def vae(request, device):
    return build(request.param).double().to(device)


@pytest.fixture
def x(vae, device):
    return torch.rand(3, *vae.config.image_shape, dtype=torch.float64, device=device)


def noise_for(vae, draws, rows):
    return torch.randn(draws, rows, *vae.config.latent_shape).to(next(vae.parameters()))


@pytest.fixture
def linear_family():
    """Register the likelihood `linear` for the time of a test."""
    FAMILIES["linear"] = LinearGaussian
    yield
    del FAMILIES["linear"]


@pytest.fixture
def linear(linear_family, device):
    """x = W z + b + SCALE eps with z of 2 and x of 6 values, and the encoder at the true posterior p(z|x)."""
    config = VAEConfig(image_shape=(1, 2, 3), latent_shape=(2,), likelihood="linear", scale=SCALE)
    vae = build(config).double().to(device).requires_grad_(False)
    decoder, encoder = vae.decoder.network[1], vae.encoder.network[1]
    weight = torch.linalg.qr(torch.randn(6, 2).to(decoder.weight)).Q * torch.tensor([1.5, 0.6]).to(decoder.weight)
    decoder.weight.copy_(weight)
    variance = 1 / (1 + (weight**2).sum(0) / SCALE**2)  # diagonal, since the columns of W are orthogonal
    gain = variance[:, None] * weight.T / SCALE**2
    # The encoder reads 2 x - 1; its first half is the mean, its second the log-variance.
    encoder.weight.copy_(torch.cat([gain / 2, torch.zeros_like(gain)]))
    encoder.bias.copy_(torch.cat([gain @ (0.5 - decoder.bias), variance.log()]))
    return vae


def evidence(linear, x):
    """log N(x; b, W W^T + SCALE^2 I), [B]."""
    weight, bias = linear.decoder.network[1].weight, linear.decoder.network[1].bias
    covariance = weight @ weight.T + SCALE**2 * torch.eye(6).to(weight)
    return MultivariateNormal(bias, covariance).log_prob(x.flatten(1))


def worsened(linear):
    """Move the encoder off the true posterior and return the KL between them, the same for every image."""
    where, bias = repeated(linear, 1), linear.encoder.network[1].bias
    true = linear.posterior(where)
    bias += torch.tensor([0.15, -0.2, 0.3, -0.4]).to(bias)
    off = linear.posterior(where)
    return kl_divergence(*(Normal(q.mean, (0.5 * q.logvar).exp()) for q in (off, true))).sum()


def repeated(linear, count):
    return torch.rand(1, 1, 2, 3).to(linear.encoder.network[1].weight).expand(count, -1, -1, -1)


def within(values, expected):
    """Return whether the mean of independent estimates is within SIGMAS standard errors of `expected`."""
    return (values.mean() - expected).abs() < SIGMAS * values.std() / len(values) ** 0.5


@pytest.mark.parametrize("samples", [1, 4])
def test_the_elbo_is_the_mean_reconstruction_minus_the_kl(vae, x, samples):
    noise, q = noise_for(vae, samples, 3), vae.posterior(x)
    bound = elbo(vae, x, noise=noise)
    z = q.mean + (0.5 * q.logvar).exp() * noise
    standard = Normal(torch.zeros_like(q.mean), 1)
    ratio = (Normal(q.mean, (0.5 * q.logvar).exp()).log_prob(z) - standard.log_prob(z)).flatten(2).sum(2)
    likelihood = torch.stack([vae.likelihood(draw).log_prob(x) for draw in z])
    assert_close(bound.reconstruction, (likelihood - ratio).mean(0) + bound.kl)
    assert_close(bound.kl, kl_divergence(Normal(q.mean, (0.5 * q.logvar).exp()), standard).flatten(1).sum(1))
    assert_close(bound.total, bound.reconstruction - bound.kl)
    assert bound.total.shape == (3,)


def test_the_elbo_of_several_draws_is_their_mean(vae, x):
    noise = noise_for(vae, 5, 3)
    single = torch.stack([elbo(vae, x, noise=draw[None]).total for draw in noise])
    assert_close(elbo(vae, x, noise=noise).total, single.mean(0))


def test_a_seed_determines_the_draws(vae, x, device):
    torch.manual_seed(3)
    noise = torch.randn(4, 3, *vae.config.latent_shape, dtype=torch.float64, device=device)
    torch.manual_seed(3)
    assert_close(elbo(vae, x, samples=4), elbo(vae, x, noise=noise))
    torch.manual_seed(3)
    assert_close(bounds(vae, x, samples=4), bounds(vae, x, samples=4, noise=noise))


def test_bounds_use_the_same_draws_for_the_elbo_and_one_draw_per_noise_row(vae, x):
    noise = noise_for(vae, 7, 3)
    assert_close(bounds(vae, x, samples=1, noise=noise).elbo, elbo(vae, x, noise=noise))
    assert_close(bounds(vae, x, samples=1, noise=noise), bounds(vae, x, samples=7, noise=noise))


@pytest.mark.parametrize("likelihood", FAMILIES)
def test_bounds_of_the_levels_have_their_masses_in_place_of_densities(likelihood, device):
    vae = build(replace(DIGITS, likelihood=likelihood, scale=0.01)).double().to(device)
    levels = torch.randint(256, (3, 1, 8, 8), device=device)
    noise, x = noise_for(vae, 5, 3), levels.double() / 255
    found, q = bounds(vae, x, 5, noise, chunk=2), vae.posterior(x)
    z, standard = q.reparameterize(noise), Normal(torch.zeros_like(q.mean), 1)
    ratio = (standard.log_prob(z) - Normal(q.mean, (0.5 * q.logvar).exp()).log_prob(z)).flatten(2).sum(2)
    weights = torch.stack([vae.likelihood(draw).log_probabilities(x).level for draw in z]) + ratio
    assert_close(found.level_elbo, weights.mean(0))
    assert_close(found.level_log_likelihood, weights.logsumexp(0) - log(5))
    assert (found.level_log_likelihood <= 0).all()
    if not likelihood.startswith("gaussian"):
        assert torch.equal(found.level_elbo, found.elbo.total)


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_the_bounds_are_independent_of_the_chunk_size(vae, x, chunk):
    noise = noise_for(vae, 7, 3)
    assert_close(bounds(vae, x, 7, noise, chunk=chunk), bounds(vae, x, 7, noise, chunk=7))


def test_the_score_of_an_image_is_independent_of_its_batch(vae, x):
    noise = noise_for(vae, 4, 3)
    together = bounds(vae, x, 4, noise)
    for row in range(3):
        alone = bounds(vae, x[row : row + 1], 4, noise[:, row : row + 1])
        assert_close(alone.log_likelihood[0], together.log_likelihood[row])
        assert_close(alone.elbo.total[0], together.elbo.total[row])


def test_the_importance_weighted_bound_is_the_log_mean_weight_and_above_the_mean_log_weight(vae, x):
    noise, q = noise_for(vae, 6, 3), vae.posterior(x)
    sigma = (0.5 * q.logvar).exp()
    z = q.mean + sigma * noise
    log_ratio = (Normal(0, 1).log_prob(z) - Normal(q.mean, sigma).log_prob(z)).flatten(2).sum(2)
    log_weights = vae.likelihood(z).log_prob(x) + log_ratio
    bound = bounds(vae, x, 6, noise).log_likelihood
    assert_close(bound, log_weights.logsumexp(0) - log(6))
    assert (bound > log_weights.mean(0)).all()


@pytest.mark.parametrize("draws", [1, 2, 50])
def test_at_the_true_posterior_every_importance_weight_is_the_evidence(linear, draws):
    x = torch.rand(4, 1, 2, 3).to(linear.encoder.network[1].weight)
    assert_close(log_likelihood(linear, x, draws), evidence(linear, x))


def test_at_the_true_posterior_the_elbo_is_the_evidence_by_any_draw(linear):
    x = torch.rand(4, 1, 2, 3).to(linear.encoder.network[1].weight)
    assert_close(elbo(linear, x).total, evidence(linear, x))


def test_the_control_variate_leaves_the_mean_and_takes_most_of_the_variance(linear):
    worsened(linear)
    x, noise = repeated(linear, 4000), noise_for(linear, 1, 4000)
    q = linear.posterior(x)
    plain = linear.likelihood(q.reparameterize(noise)).log_prob(x).mean(0)
    found = elbo(linear, x, noise=noise).reconstruction
    assert within(found - plain, 0.0)
    assert found.var() < plain.var() / 2


def test_the_elbo_falls_short_of_the_evidence_by_the_kl_to_the_true_posterior(linear):
    gap, x = worsened(linear), repeated(linear, 4000)
    assert within(elbo(linear, x, samples=4).total, evidence(linear, x[:1]) - gap)


@pytest.mark.parametrize("draws", [1, 3, 20])
def test_the_importance_weighted_estimate_of_the_evidence_is_unbiased(linear, draws):
    worsened(linear)
    x = repeated(linear, 4000)
    assert within((log_likelihood(linear, x, draws, chunk=8) - evidence(linear, x)).exp(), 1.0)


def test_the_importance_weighted_bound_rises_with_every_draw_from_the_elbo_to_the_evidence(linear):
    gap, x = worsened(linear), repeated(linear, 4000)
    short = [evidence(linear, x) - log_likelihood(linear, x, draws) for draws in (1, 2, 8, 64)]
    assert within(short[0], gap)
    for fewer, more in pairwise(short):
        error = ((fewer.var() + more.var()) / len(x)) ** 0.5
        assert fewer.mean() - more.mean() > SIGMAS * error
    assert short[-1].mean() > -SIGMAS * short[-1].std() / len(x) ** 0.5
    assert short[-1].mean() < gap / 20


def test_the_variance_of_the_elbo_falls_as_one_over_the_draws(linear):
    worsened(linear)
    x = repeated(linear, 4000)
    single, many = (elbo(linear, x, samples=draws) for draws in (1, 16))
    # The ratio of two variances from 4,000 estimates each has a standard error of 3 to 4 per cent.
    assert 0.8 < 16 * many.total.var() / single.total.var() < 1.25
    assert_close(many.kl, single.kl)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_importance_weighted_bound_converges_to_the_evidence_by_quadrature(name, device):
    config = VAEConfig(image_shape=(1, 2, 2), latent_shape=(1,), hidden=(6,), likelihood=name, scale=0.3)
    vae = build(config, seed=1).double().to(device).requires_grad_(False)
    x = torch.rand(1, 1, 2, 2).to(next(vae.parameters()))
    grid = torch.linspace(-9, 9, 6001).to(x)
    joint = vae.likelihood(grid[:, None]).log_prob(x) + Normal(0, 1).log_prob(grid)
    true = torch.trapezoid(joint.exp(), grid).log()
    estimates = (log_likelihood(vae, x.expand(200, -1, -1, -1), 500) - true).exp()
    assert within(estimates, 1.0)
    assert estimates.std() < (0.5 if name == "logistic-shared" else 0.2)  # its scale depends on all pixels


def test_the_evidence_of_all_binary_images_sums_to_one(device):
    config = VAEConfig(image_shape=(1, 2, 2), latent_shape=(2,), hidden=(5,))
    vae = build(config).double().to(device).requires_grad_(False)
    x = torch.tensor(list(product([0.0, 1.0], repeat=4))).view(16, 1, 2, 2).to(next(vae.parameters()))
    sums = log_likelihood(vae, x.repeat(500, 1, 1, 1), 20).exp().view(500, 16).sum(1)
    assert within(sums, 1.0)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_reconstruction_sends_gradients_to_every_weight_and_the_kl_to_the_encoder(name, device):
    config = VAEConfig(
        image_shape=(3, 5, 4), latent_shape=(2,), stride=2, channels=(4, 4), blocks=(1, 1), hidden=(6,), likelihood=name
    )
    vae = build(config).to(device)
    x = torch.rand(4, 3, 5, 4, device=device)
    weights, encoder = list(vae.parameters()), list(vae.encoder.parameters())
    bound = elbo(vae, x, samples=2)
    importance = log_likelihood(vae, x, 3, chunk=2)
    for term, reached in ((bound.reconstruction, weights), (bound.kl, encoder), (importance, weights)):
        gradients = torch.autograd.grad(term.sum(), reached, retain_graph=True)
        assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)
