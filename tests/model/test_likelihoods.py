"""Tests of the likelihood families: normalisation, torch.distributions as reference, extreme values."""

from itertools import product
from math import log, pi

import pytest
import torch
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Independent,
    Normal,
    SigmoidTransform,
    TransformedDistribution,
    Uniform,
)
from torch.nn.functional import softplus
from torch.testing import assert_close

from model.likelihoods import FAMILIES, bits_per_dim

SCALE = 0.3
GREY = torch.arange(256, dtype=torch.float64)[:, None, None, None] / 255  # every level of a one-pixel image
BINARY = torch.tensor(list(product([0.0, 1.0], repeat=4)), dtype=torch.float64).view(16, 1, 2, 2)
EXTREMES = [-1e30, -1e4, -100.0, -10.0, -1.0, 0.0, 1.0, 10.0, 100.0, 1e4]


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def drawn(family, *leading, shape=(3, 4, 5), device="cpu"):
    """A likelihood of random decoder outputs, and these outputs."""
    channels, height, width = shape
    raw = torch.randn(*leading, family.params_per_channel * channels, height, width, dtype=torch.float64, device=device)
    return family(raw, SCALE), raw


def one_pixel(family, *raw, dtype=torch.float64, scale=SCALE):
    return family(torch.tensor(raw[: family.params_per_channel], dtype=dtype).view(1, -1, 1, 1), scale)


def pixels(*leading, device="cpu"):
    return torch.rand(*leading, 3, 4, 5, dtype=torch.float64, device=device)


def test_bernoulli_agrees_with_torch_distributions(device):
    p, raw = drawn(FAMILIES["bernoulli"], 7, device=device)
    x = pixels(7, device=device).round()
    assert_close(p.log_prob(x), Independent(Bernoulli(logits=raw), 3).log_prob(x))


def test_gaussian_agrees_with_torch_distributions(device):
    p, raw = drawn(FAMILIES["gaussian"], 7, device=device)
    x = pixels(7, device=device)
    assert_close(p.log_prob(x), Independent(Normal(raw.sigmoid(), SCALE), 3).log_prob(x))


def test_learned_gaussian_agrees_with_torch_distributions(device):
    p, raw = drawn(FAMILIES["gaussian-learned"], 7, device=device)
    x, location, spread = pixels(7, device=device), raw[:, :3], raw[:, 3:]
    assert_close(p.log_prob(x), Independent(Normal(location.sigmoid(), 1 / 256 + softplus(spread - 2)), 3).log_prob(x))


def test_logistic_agrees_with_torch_distributions_in_each_bin(device):
    raw = torch.randn(7, 6, 4, 5, dtype=torch.float64, device=device)
    raw[:, 3:] += 3  # wide, since a difference of cumulative masses cancels far from the location
    x = (pixels(7, device=device) * 1.4 - 0.2).clamp(0, 1).mul(255).round() / 255
    location, spread = raw[:, :3].sigmoid(), 1e-3 + softplus(raw[:, 3:] - 3)
    unit = TransformedDistribution(Uniform(torch.zeros_like(x), 1.0, validate_args=False), SigmoidTransform().inv)
    logistic = TransformedDistribution(unit, AffineTransform(location, spread))
    upper = torch.where(x == 1, 1.0, logistic.cdf(x + 0.5 / 255))
    lower = torch.where(x == 0, 0.0, logistic.cdf(x - 0.5 / 255))
    assert (x == 0).any()
    assert (x == 1).any()
    assert_close(FAMILIES["logistic"](raw).log_prob(x), (upper - lower).log().sum((1, 2, 3)))


def test_the_deviation_is_the_standard_deviation_of_the_distribution_over_a_line(family):
    p = one_pixel(family, 0.3, 1.0)
    if not family.has_scale:
        assert p.deviation is None
        return
    wide = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    if issubclass(family, FAMILIES["logistic"]):
        s = 1e-3 + softplus(torch.tensor(1.0 - 3, dtype=torch.float64))
        density = torch.sigmoid((wide - p.mean.item()) / s) * torch.sigmoid(-(wide - p.mean.item()) / s) / s
    else:
        density = p.pixel_log_prob(wide.view(-1, 1, 1, 1)).exp().flatten()
    variance = torch.trapezoid(density * (wide - p.mean.item()) ** 2, wide)
    assert p.deviation.item() == pytest.approx(variance.sqrt().item())


def test_bernoulli_sums_to_one_over_all_binary_images(device):
    p, _ = drawn(FAMILIES["bernoulli"], 5, 1, shape=(1, 2, 2), device=device)
    assert_close(p.log_prob(BINARY.to(device)).exp().sum(-1), torch.ones(5).to(p.mean))


def test_the_score_of_a_grey_image_is_the_expectation_over_its_binarisations(device):
    p, _ = drawn(FAMILIES["bernoulli"], 5, 1, shape=(1, 2, 2), device=device)
    grey, binary = torch.rand(1, 2, 2).to(p.mean), BINARY.to(device)
    chance = (grey**binary * (1 - grey) ** (1 - binary)).prod(-1).prod(-1).squeeze(-1)
    assert_close(p.log_prob(grey[None])[:, 0], (chance * p.log_prob(binary)).sum(-1))


@pytest.mark.parametrize("name", ["gaussian", "gaussian-learned"])
@pytest.mark.parametrize("location", [-30.0, -1.0, 0.4, 30.0])
def test_a_density_integrates_to_one_around_its_mean(name, location):
    p = one_pixel(FAMILIES[name], location, -1.0)
    x = torch.linspace(-5, 6, 20_001, dtype=torch.float64)
    density = p.log_prob(x[:, None, None, None]).exp()
    assert_close(torch.trapezoid(density, x).item(), 1.0)
    assert_close(torch.trapezoid(x * density, x).item(), p.mean.item())


def test_the_mean_of_bernoulli_is_the_probability_of_one():
    p, _ = drawn(FAMILIES["bernoulli"], 1, shape=(1, 1, 1))
    assert_close(p.log_prob(torch.ones_like(p.mean)).exp(), p.mean.flatten())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_logistic_sums_to_one_over_the_256_levels_for_any_decoder_output(device, dtype, tolerance):
    sweep = torch.linspace(-8, 8, 81, dtype=dtype, device=device).sinh()  # -1490 to 1490, densest around 0
    p = FAMILIES["logistic"](torch.cartesian_prod(sweep, sweep)[:, None, :, None, None])
    mass = p.log_prob(GREY.to(sweep)).double().exp().sum(-1)
    assert_close(mass, torch.ones_like(mass), atol=tolerance, rtol=0)


def test_logistic_rounds_a_value_to_its_nearest_level(device):
    p, _ = drawn(FAMILIES["logistic"], 7, device=device)
    levels = pixels(7, device=device).mul(255).round()
    nearby = levels + 0.98 * (pixels(7, device=device) - 0.5)
    assert torch.equal(p.log_prob(nearby / 255), p.log_prob(levels / 255))


@pytest.mark.parametrize("name", ["gaussian", "gaussian-learned"])
def test_a_wide_density_is_constant_over_a_level(name):
    p = one_pixel(FAMILIES[name], 0.1, -0.4, scale=0.08)
    found = p.log_probabilities(GREY[96:176])
    assert_close(found.value - log(255), found.level, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("name", "scale"), [("gaussian", 0.001), ("gaussian", 0.08), ("gaussian", 10.0), ("gaussian-learned", 1.0)]
)
def test_the_masses_of_the_levels_sum_to_one_for_any_decoder_output(name, scale):
    sweep = torch.linspace(-8, 8, 33, dtype=torch.float64)
    raw = torch.cartesian_prod(sweep, sweep)[:, : FAMILIES[name].params_per_channel]
    mass = FAMILIES[name](raw[:, None, :, None, None], scale).log_probabilities(GREY).level.exp().sum(-1)
    assert_close(mass, torch.ones_like(mass))


def test_a_mass_has_the_same_log_probability_of_levels():
    for name in ("bernoulli", "logistic"):
        p, _ = drawn(FAMILIES[name], 7)
        x = pixels(7).mul(255).round() / 255
        value, level = p.log_probabilities(x)
        assert torch.equal(value, p.log_prob(x))
        assert torch.equal(level, value)


def test_a_uniform_model_needs_8_bits_per_dimension_and_a_certain_one_0():
    for mass, bits in ((1 / 256, 8.0), (1 / 2, 1.0), (1.0, 0.0)):
        log_mass = 12 * torch.tensor(mass, dtype=torch.float64).log()
        assert_close(bits_per_dim(log_mass, 12).item(), bits)
        assert_close(bits_per_dim(log_mass.item(), 12), bits)


def test_the_mean_is_in_the_unit_interval_for_any_decoder_output(family):
    p = family(torch.tensor(EXTREMES).view(1, 1, -1, 1).expand(1, family.params_per_channel, -1, 2), SCALE)
    assert p.mean.shape == (1, 1, len(EXTREMES), 2)
    assert ((p.mean >= 0) & (p.mean <= 1)).all()
    assert (p.mean.diff(dim=-2) >= 0).all()
    assert_close(p.mean[0, 0, EXTREMES.index(0.0)], torch.full((2,), 0.5))


@pytest.mark.parametrize("size", [1, 5, 28])
def test_the_mean_of_an_image_is_bit_identical_in_any_batch(family, size, device):
    torch.manual_seed(size)
    raw = 3 * torch.randn(33, family.params_per_channel, size, size, device=device)
    alone = torch.cat([family(row, SCALE).mean for row in raw.split(1)])
    assert torch.equal(family(raw, SCALE).mean, alone)


def test_values_and_gradients_are_finite_for_any_decoder_output(family, device):
    raw = torch.tensor(list(product(EXTREMES, repeat=family.params_per_channel)), device=device)[
        ..., None, None
    ].requires_grad_()
    for level in (0, 1, 127, 254, 255):
        score = family(raw, SCALE).log_prob(torch.full_like(raw[:, :1], level / 255))
        (gradient,) = torch.autograd.grad(score.sum(), raw)
        assert score.isfinite().all()
        assert gradient.isfinite().all()


def test_a_learned_deviation_is_at_least_one_grey_level():
    peak = log(256) - 0.5 * log(2 * pi)
    for spread in EXTREMES:
        p = one_pixel(FAMILIES["gaussian-learned"], 0.0, spread)
        assert p.log_prob(p.mean).item() <= peak + 1e-12


def test_a_shared_scale_is_the_one_of_the_mean_of_its_channel():
    shared, raw = drawn(FAMILIES["logistic-shared"], 7)
    means = raw[:, 3:].mean((-2, -1), keepdim=True).expand(-1, -1, 4, 5)
    x = pixels(7)
    assert_close(shared.log_prob(x), FAMILIES["logistic"](torch.cat([raw[:, :3], means], 1)).log_prob(x))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "logistic-shared"])
def test_the_score_of_an_image_is_the_sum_over_its_values(name):
    family = FAMILIES[name]
    p, raw = drawn(family, shape=(3, 2, 2))
    x = pixels()[:, :2, :2]
    parts = raw.unflatten(0, (family.params_per_channel, 3))
    single = [
        family(parts[:, c, i, j].view(-1, 1, 1), SCALE).log_prob(x[c, i, j].view(1, 1, 1))
        for c, i, j in product(range(3), range(2), range(2))
    ]
    assert_close(p.log_prob(x), torch.stack(single).sum())


def test_the_score_of_an_image_is_independent_of_other_draws_and_rows(family, device):
    p, raw = drawn(family, 2, 3, device=device)
    x = pixels(3, device=device)
    assert p.mean.shape == (2, 3, 3, 4, 5)
    assert p.log_prob(x).shape == (2, 3)
    for draw, row in product(range(2), range(3)):
        assert_close(p.log_prob(x)[draw, row], family(raw[draw, row], SCALE).log_prob(x[row]))


def test_every_family_describes_its_score(family):
    assert family.description.startswith("the log-")
