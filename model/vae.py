"""Variational Autoencoder: the prior p(z) = N(0, I), the encoder and the decoder.

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
    """Module with the posterior q(z|x), the likelihood p(x|z) and the prior p(z) of one architecture."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """Encode x of [B, C, H, W] in [0, 1] as q(z|x), with mean and logvar of [B, *latent]."""
        q: DiagonalGaussian = self.encoder(x)
        return q

    def likelihood(self, z: Tensor) -> Likelihood:
        """Decode z of [..., *latent] as p(x|z), with a mean of [..., C, H, W] in [0, 1]."""
        p: Likelihood = self.decoder(z)
        return p

    def prior(self, count: int = 1) -> DiagonalGaussian:
        """Return p(z) = N(0, I) for `count` latents, [count, *latent], with dtype and device of the weights."""
        weight = next(self.parameters())
        return DiagonalGaussian.standard(torch.empty(count, *self.config.latent_shape).to(weight))
