"""p(x|z): what the decoder says of an image, factorised over its pixels.

    log p(x|z) = sum_i log p(x_i|z)

Bernoulli and Gaussian: Kingma and Welling (2014), appendix C. Discretised logistic: Kingma et al., "Improved
Variational Inference with Inverse Autoregressive Flow" (2016), section 5.2, and Salimans et al., "PixelCNN++" (2017),
section 2.1.
"""

from abc import ABC, abstractmethod
from math import log, pi
from typing import ClassVar, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

Number = TypeVar("Number", float, Tensor)

LEVELS = 256
"""The grey levels of an 8-bit pixel, k / 255 for k from 0 to 255."""


class Likelihood(ABC):
    """One family of p(x|z), made of what the decoder network gives: `raw` [..., params_per_channel * C, H, W].

    `scale` is for the families of one fixed standard deviation. A new family is a subclass with `pixel_log_prob`, its
    `params_per_channel` if it needs more than one, and its line in `FAMILIES`.
    """

    params_per_channel: ClassVar[int] = 1
    """How many numbers the decoder gives for each channel of each pixel."""

    log_bin_width: ClassVar[float] = 0.0
    """What turns `log_prob` into the log-mass of an 8-bit level, nats per value: 0 where it already is a mass."""

    description: ClassVar[str]
    """What log p(x|z) is the logarithm of, for people."""

    def __init__(self, raw: Tensor, scale: float = 1.0) -> None:
        self.logits, *self.extra_params = raw.chunk(self.params_per_channel, dim=-3)
        self.scale = scale

    @classmethod
    def bits_per_dim(cls, log_p: Number, dimensions: int) -> Number:
        """Log p(x) of `dimensions` values, in nats per image, as bits for each 8-bit value; lower is better."""
        return -(log_p / dimensions + cls.log_bin_width) / log(2)

    @property
    def mean(self) -> Tensor:
        """The expected image, [..., C, H, W] in [0, 1]: the sigmoid of what the network gives.

        In two steps, because torch's own rounds the last few pixels of a tensor otherwise, and which those are depends
        on how many images there are.
        """
        return torch.exp(logsigmoid(self.logits))

    @abstractmethod
    def pixel_log_prob(self, x: Tensor) -> Tensor:
        """log p(x_i|z) of every value of x, [..., C, H, W] nats."""

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x|z) for x of [B, C, H, W] in [0, 1]: [..., B] nats per image."""
        return self.pixel_log_prob(x).sum((-3, -2, -1))


class Bernoulli(Likelihood):
    """Binary pixels. A grey x is scored by its expected log-probability over binarisations of mean x."""

    description = "the log-probability of binary pixels; a grey pixel stands for the chance that it is 1"

    def pixel_log_prob(self, x: Tensor) -> Tensor:
        return x * self.logits - softplus(self.logits)


class Gaussian(Likelihood):
    """Continuous pixels of one fixed standard deviation."""

    description = "the log-density of pixels in [0, 1]"

    log_bin_width: ClassVar[float] = -log(LEVELS - 1)

    @property
    def log_scale(self) -> Tensor:
        """Log sigma, nats; broadcasts over the pixels."""
        return self.logits.new_tensor(log(self.scale))

    def pixel_log_prob(self, x: Tensor) -> Tensor:
        standardised = (x - self.mean) * torch.exp(-self.log_scale)
        return -0.5 * (standardised**2 + log(2 * pi)) - self.log_scale


class LearnedGaussian(Gaussian):
    """Continuous pixels whose standard deviation the decoder gives, kept above one grey level."""

    params_per_channel: ClassVar[int] = 2

    @property
    def log_scale(self) -> Tensor:
        return torch.log(1 / LEVELS + softplus(self.extra_params[0] - 2))


class DiscretisedLogistic(Likelihood):
    """8-bit pixels: the mass that a logistic gives to each level's cell, the outermost cells reaching to infinity.

    `mean` is the logistic's own, before the rounding to levels.
    """

    description = "the log-probability of 8-bit pixels"

    params_per_channel: ClassVar[int] = 2

    def pixel_log_prob(self, x: Tensor) -> Tensor:
        log_scale = torch.log(1e-3 + softplus(self.extra_params[0] - 3))
        level = torch.round(x * (LEVELS - 1))
        centre, half = level / (LEVELS - 1), 0.5 / (LEVELS - 1)
        upper = (centre + half - self.mean) * torch.exp(-log_scale)
        lower = (centre - half - self.mean) * torch.exp(-log_scale)
        # log(S(u) - S(l)) = log S(u) + log S(-l) + log(1 - exp(l - u)), S the sigmoid: no difference of near equals.
        inside = logsigmoid(upper) + logsigmoid(-lower) + torch.log(-torch.expm1(lower - upper))
        edge = torch.where(level == 0, logsigmoid(upper), inside)
        return torch.where(level == LEVELS - 1, logsigmoid(-lower), edge)


FAMILIES: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
    "gaussian-learned": LearnedGaussian,
    "logistic": DiscretisedLogistic,
}
