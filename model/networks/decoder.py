"""Decoder network: maps latents to the likelihood p(x|z) (Kingma and Welling 2014, appendix C)."""

from itertools import pairwise
from math import prod

from torch import Tensor, nn

from model.config import VAEConfig
from model.likelihoods import FAMILIES, Likelihood
from model.networks.blocks import Upsample, dense, residuals


class Decoder(nn.Module):
    """Mirror of the encoder: linear layers to the coarsest resolution, then residual convolutions to the finest."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.family = FAMILIES[config.likelihood]
        self.network = nn.Sequential(*_stem(config), *_convolutions(config, self.family.params_per_channel))

    def forward(self, z: Tensor) -> Likelihood:
        """Return p(x|z) for z of [..., *latent] with any number of leading dimensions."""
        leading = z.shape[: z.dim() - len(self.config.latent_shape)]
        raw: Tensor = self.network(z.reshape(-1, *self.config.latent_shape)).to(z.dtype)
        return self.family(raw.reshape(*leading, *raw.shape[1:]), self.config.scale)


def _stem(config: VAEConfig) -> list[nn.Module]:
    if config.pointwise:
        return [nn.Conv2d(config.latent_shape[0], config.features[0], 1)]
    raw = FAMILIES[config.likelihood].params_per_channel
    grid = config.features if config.channels else (raw * config.features[0], *config.features[1:])
    widths = [prod(config.latent_shape), *reversed(config.hidden), prod(grid)]
    return [nn.Flatten(), *dense(widths), nn.Unflatten(1, grid)]


def _convolutions(config: VAEConfig, features: int) -> list[nn.Module]:
    if not config.channels:
        return []
    layers = residuals(config.channels[-1], config.blocks[-1])
    steps = zip(pairwise(reversed(config.channels)), config.grids[-2::-1], config.blocks[-2::-1], strict=True)
    for (channels, finer), grid, blocks in steps:
        layers += [nn.SiLU(), Upsample(channels, finer, grid), *residuals(finer, blocks)]
    return [*layers, nn.SiLU(), _to_image(config, features * config.image_shape[0])]


def _to_image(config: VAEConfig, values: int) -> nn.Module:
    if config.stride == 1:
        return nn.Conv2d(config.channels[0], values, 3, padding=1)
    _, height, width = config.image_shape
    return Upsample(config.channels[0], values, (height, width))
