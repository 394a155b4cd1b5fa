"""The Variational Autoencoder: the prior p(z) = N(0, I) and the two networks that face each other.

Kingma and Welling, "Auto-Encoding Variational Bayes" (2014), section 3.
"""

import torch
from torch import Tensor, nn

from model.config import VAEConfig
from model.gaussian import DiagonalGaussian
from model.likelihoods import Likelihood
from model.networks.decoder import Decoder
from model.networks.encoder import Encoder


class VAE(nn.Module):
    """q(z|x), p(x|z) and p(z) of one architecture."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """q(z|x) for x of [B, C, H, W] in [0, 1]; mean and logvar [B, *latent]."""
        q: DiagonalGaussian = self.encoder(x)
        return q

    def likelihood(self, z: Tensor) -> Likelihood:
        """p(x|z) for z of [..., *latent]; its mean is [..., C, H, W]."""
        p: Likelihood = self.decoder(z)
        return p

    def prior(self, count: int = 1) -> DiagonalGaussian:
        """p(z) = N(0, I) for `count` latents, [count, *latent], on the device of the weights."""
        weight = next(self.parameters())
        return DiagonalGaussian.standard(torch.empty(count, *self.config.latent_shape).to(weight))
