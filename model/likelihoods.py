"""Likelihood families p(x|z), factorised over the pixels of an image.

    log p(x|z) = sum_i log p(x_i|z)

Bernoulli and Gaussian: Kingma and Welling (2014), appendix C. Discretised logistic: Kingma et al., "Improved
Variational Inference with Inverse Autoregressive Flow" (2016), section 5.2, and Salimans et al., "PixelCNN++" (2017),
section 2.1.
"""

from abc import ABC, abstractmethod
from math import log, pi, sqrt
from typing import ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

Number = TypeVar("Number", float, Tensor)

LEVELS = 256
"""Number of grey levels of an 8-bit pixel; level k stands for the value k / 255."""


def bits_per_dim(log_mass: Number, dimensions: int) -> Number:
    """Convert the log-mass of an image with `dimensions` values from nats to bits per value; lower is better."""
    return -log_mass / (dimensions * log(2))


class LogProbabilities(NamedTuple):
    """log p(x|z) of images, and the log-mass of their 8-bit levels, [..., B] nats each; the same for a mass."""

    value: Tensor
    level: Tensor


class Likelihood(ABC):
    """Distribution of an image given a latent, built from the decoder's output [..., params_per_channel * C, H, W].

    `scale` is the standard deviation of families that have a fixed one. A new family is a subclass that defines
    `pixel_log_prob` and `description`, sets `params_per_channel` if it needs more than one, and is added to `FAMILIES`.
    """

    params_per_channel: ClassVar[int] = 1
    """Number of decoder outputs per channel of each pixel."""

    has_scale: ClassVar[bool] = False
    """Whether the distribution of a pixel has a scale, so that `deviation` is a number."""

    description: ClassVar[str]
    """Text for people: the kind of probability that log p(x|z) is."""

    def __init__(self, raw: Tensor, scale: float = 1.0) -> None:
        self.logits, *self.extra_params = raw.chunk(self.params_per_channel, dim=-3)
        self.scale = scale

    @property
    def mean(self) -> Tensor:
        """The expected image, [..., C, H, W] in [0, 1]: the sigmoid of the logits.

        `torch.sigmoid` rounds the last elements of a tensor differently from the others, so an image would depend on
        the size of its batch. `exp(logsigmoid)` does not.
        """
        return torch.exp(logsigmoid(self.logits))

    @property
    def deviation(self) -> Tensor | None:
        """The standard deviation, which broadcasts over [..., C, H, W], None for a family without a scale."""
        return None

    @abstractmethod
    def pixel_log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x_i|z) of each value of x, [..., C, H, W] nats, for x of [B, C, H, W] in [0, 1]."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x|z), [..., B] nats per image, for x of [B, C, H, W] in [0, 1]."""
        return self.pixel_log_prob(x).sum((-3, -2, -1))

    def log_probabilities(self, x: Tensor) -> LogProbabilities:
        """Return `log_prob` and the log-mass of the 8-bit levels nearest to x."""
        log_prob = self.log_prob(x)
        return LogProbabilities(log_prob, log_prob)


class Bernoulli(Likelihood):
    """Likelihood of binary pixels; a grey x gets its expected log-probability over binarisations with mean x."""

    description = "the log-probability of binary pixels; a grey pixel stands for the chance that it is 1"

    def pixel_log_prob(self, x: Tensor) -> Tensor:
        return x * self.logits - softplus(self.logits)


class Gaussian(Likelihood):
    """Likelihood of continuous pixels with a fixed standard deviation `scale`."""

    description = "the log-density of pixels in [0, 1]"

    has_scale: ClassVar[bool] = True

    @property
    def log_scale(self) -> Tensor:
        """Logarithm of the standard deviation; broadcasts over the pixels."""
        return self.logits.new_tensor(log(self.scale))

    @property
    def deviation(self) -> Tensor:
        return torch.exp(self.log_scale)

    def pixel_log_prob(self, x: Tensor) -> Tensor:
        standardised = (x - self.mean) * torch.exp(-self.log_scale)
        return -0.5 * (standardised**2 + log(2 * pi)) - self.log_scale

    def log_probabilities(self, x: Tensor) -> LogProbabilities:
        """Return the log-density, and the log-mass of the bins of the levels; the outer bins are unbounded."""
        log_prob = self.log_prob(x)
        return LogProbabilities(log_prob, self._level_log_prob(x).to(log_prob.dtype))

    def _level_log_prob(self, x: Tensor) -> Tensor:
        level = torch.round(x * (LEVELS - 1))
        centre, half = (level / (LEVELS - 1)).double(), 0.5 / (LEVELS - 1)
        scale = torch.exp(-self.log_scale.double())
        upper, lower = ((centre + side - self.mean.double()) * scale for side in (half, -half))
        mass = _log_normal_mass(
            lower.masked_fill(level == 0, -torch.inf), upper.masked_fill(level == LEVELS - 1, torch.inf)
        )
        return mass.sum((-3, -2, -1))


class LearnedGaussian(Gaussian):
    """Likelihood of continuous pixels with a standard deviation from the decoder, bounded below by one grey level."""

    params_per_channel: ClassVar[int] = 2

    @property
    def log_scale(self) -> Tensor:
        return torch.log(1 / LEVELS + softplus(self.extra_params[0] - 2))


class DiscretisedLogistic(Likelihood):
    """Likelihood of 8-bit pixels: the mass of a logistic over the bin of each level; the outer bins are unbounded.

    `mean` is the mean of the continuous logistic distribution, before discretisation.
    """

    description = "the log-probability of 8-bit pixels"

    params_per_channel: ClassVar[int] = 2
    has_scale: ClassVar[bool] = True

    @property
    def log_scale(self) -> Tensor:
        """Logarithm of the scale of the logistic, [..., C, H, W]."""
        return torch.log(1e-3 + softplus(self.extra_params[0] - 3))

    @property
    def deviation(self) -> Tensor:
        """The standard deviation of the logistic before discretisation, pi / sqrt(3) times its scale."""
        return torch.exp(self.log_scale) * (pi / sqrt(3))

    def pixel_log_prob(self, x: Tensor) -> Tensor:
        level = torch.round(x * (LEVELS - 1))
        centre, half = level / (LEVELS - 1), 0.5 / (LEVELS - 1)
        mean, inverse_scale = self.mean, torch.exp(-self.log_scale)
        upper = (centre + half - mean) * inverse_scale
        lower = (centre - half - mean) * inverse_scale
        # log(S(u) - S(l)) = log S(u) + log S(-l) + log(1 - exp(l - u)) with S the sigmoid avoids cancellation.
        below_upper, above_lower = logsigmoid(upper), logsigmoid(-lower)
        inside = below_upper + above_lower + torch.log(-torch.expm1(lower - upper))
        edge = torch.where(level == 0, below_upper, inside)
        return torch.where(level == LEVELS - 1, above_lower, edge)


class SharedScaleLogistic(DiscretisedLogistic):
    """Likelihood of 8-bit pixels with one scale for all pixels of a channel: the mean of the decoder's scales.

    A decoder with a scale for each pixel widens it where the error is large, which divides the gradient of the mean
    there: it learns colours late or never. Seitzer et al., "On the Pitfalls of Heteroscedastic Uncertainty Estimation"
    (2022); Rybkin et al., "Simple and Effective VAE Training with Calibrated Decoders" (2021).
    """

    @property
    def log_scale(self) -> Tensor:
        """Logarithm of the scale of the logistic, [..., C, 1, 1]."""
        return torch.log(1e-3 + softplus(self.extra_params[0].mean((-2, -1), keepdim=True) - 3))


def _log_normal_mass(lower: Tensor, upper: Tensor) -> Tensor:
    """Return log(Phi(upper) - Phi(lower)) of the standard normal distribution, elementwise in float64.

    An interval above 0 is mirrored, where the difference does not cancel.
    """
    mirrored = lower > 0
    a, b = torch.where(mirrored, -upper, lower), torch.where(mirrored, -lower, upper)
    log_a: Tensor = torch.special.log_ndtr(a)
    log_b: Tensor = torch.special.log_ndtr(b)
    return log_b + torch.log(-torch.expm1(log_a - log_b))


FAMILIES: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
    "gaussian-learned": LearnedGaussian,
    "logistic": DiscretisedLogistic,
    "logistic-shared": SharedScaleLogistic,
}
