"""Encoder network: maps images to the posterior q(z|x) (Kingma and Welling 2014, equation 9)."""

from itertools import pairwise
from math import prod

from torch import Tensor, nn

from model.config import VAEConfig
from model.gaussian import DiagonalGaussian
from model.networks.blocks import Downsample, dense, residuals

MAX_ABS_LOGVAR = 20.0
"""Bound on |log sigma^2|, far beyond the values of trained models; it keeps the scores of unusual images finite."""


class Encoder(nn.Module):
    """Residual convolutions from the finest to the coarsest resolution, then linear layers to mean and logvar."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.network = nn.Sequential(*_convolutions(config), *_head(config))

    def forward(self, x: Tensor) -> DiagonalGaussian:
        """Return q(z|x) for x of [B, C, H, W] in [0, 1], with mean and logvar of [B, *latent]."""
        mean, logvar = self.network(2 * x - 1).to(x.dtype).chunk(2, dim=1)
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
