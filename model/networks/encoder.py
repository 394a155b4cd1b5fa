"""Encoder network: maps images to the posterior q(z|x) (Kingma and Welling 2014, equation 9).

A bounded posterior passes mean and logvar through a sigmoid from `low` to `high` that has the slope 1 at its centre:

    limit(u) = low + (high - low) S(4 (u - (low + high) / 2) / (high - low)),   S the sigmoid

Images unlike those of the training then have posteriors near the prior: the KL divergence of a latent is at most about
60 nats.
"""

from itertools import pairwise
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from model.config import VAEConfig
from model.gaussian import DiagonalGaussian
from model.networks.blocks import Downsample, dense, residuals

MAX_ABS_LOGVAR = 20.0
"""Bound on |log sigma^2| of a clamped posterior, far beyond the values of trained models."""


class Limits(NamedTuple):
    """The open interval of a smooth limit."""

    low: float
    high: float

    @property
    def slope(self) -> float:
        """Factor of the argument of the sigmoid."""
        return 4 / (self.high - self.low)

    @property
    def centre(self) -> float:
        """The value at which the limit is the identity."""
        return (self.low + self.high) / 2

    def apply(self, values: Tensor) -> Tensor:
        """Return values inside the interval, same shape; `exp(logsigmoid)` as for the mean of a likelihood."""
        return self.low + (self.high - self.low) * torch.exp(logsigmoid(self.slope * (values - self.centre)))


MEAN_LIMITS = Limits(-10.0, 10.0)
"""Limits of the mean of a bounded posterior: 10 standard deviations of the prior."""

LOGVAR_LIMITS = Limits(-10.0, 3.0)
"""Limits of log sigma^2 of a bounded posterior: standard deviations from 0.0067 to 4.5."""


class Encoder(nn.Module):
    """Residual convolutions from the finest to the coarsest resolution, then linear layers to mean and logvar."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.bounded = config.posterior == "bounded"
        self.network = nn.Sequential(*_convolutions(config), *_head(config))

    def forward(self, x: Tensor) -> DiagonalGaussian:
        """Return q(z|x) for x of [B, C, H, W] in [0, 1], with mean and logvar of [B, *latent]."""
        mean, logvar = self.network(2 * x - 1).to(x.dtype).chunk(2, dim=1)
        if self.bounded:
            return DiagonalGaussian(MEAN_LIMITS.apply(mean), LOGVAR_LIMITS.apply(logvar))
        return DiagonalGaussian(mean, logvar.clamp(-MAX_ABS_LOGVAR, MAX_ABS_LOGVAR))


def _convolutions(config: VAEConfig) -> list[nn.Module]:
    if not config.channels:
        return []
    finest = config.channels[0]
    stem = nn.Conv2d(config.image_shape[0], finest, 3, stride=config.stride, padding=1)
    layers = [stem, *residuals(finest, config.blocks[0])]
    for (channels, coarser), (above, below) in zip(pairwise(config.channels), pairwise(config.blocks), strict=True):
        layers += [] if above else [nn.SiLU()]
        layers += [Downsample(channels, coarser), *residuals(coarser, below)]
    return [*layers, nn.SiLU()]


def _head(config: VAEConfig) -> list[nn.Module]:
    both = (2 * config.latent_shape[0], *config.latent_shape[1:])
    if config.pointwise:
        return [nn.Conv2d(config.features[0], both[0], 1)]
    return [nn.Flatten(), *dense([prod(config.features), *config.hidden, prod(both)]), nn.Unflatten(1, both)]
