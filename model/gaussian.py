"""Diagonal Gaussian distribution: density, reparameterised draws, and KL divergence.

    q(z|x) = N(z; mu(x), diag(sigma(x)^2)),   z = mu + sigma * eps  with  eps ~ N(0, I)
    KL(q || N(0, I)) = 1/2 sum_i (mu_i^2 + sigma_i^2 - log sigma_i^2 - 1)

Kingma and Welling, "Auto-Encoding Variational Bayes" (2014), section 2.4 and appendix B.
"""

from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class DiagonalGaussian:
    """Batch of Gaussians with diagonal covariance, one distribution per row.

    `mean` and `logvar` (log sigma^2) are [B, *latent]; `kl_to` and `log_prob` sum over the latent dimensions.
    """

    mean: Tensor
    logvar: Tensor

    @classmethod
    def standard(cls, like: Tensor) -> "DiagonalGaussian":
        """Return N(0, I) with the shape, dtype and device of `like`, [B, *latent]."""
        zeros = torch.zeros_like(like)
        return cls(zeros, zeros)

    @property
    def std(self) -> Tensor:
        """The standard deviation sigma, [B, *latent], > 0."""
        return torch.exp(0.5 * self.logvar)

    def reparameterize(self, noise: Tensor) -> Tensor:
        """Return z = mu + sigma * noise for standard normal noise of [..., B, *latent]; zero noise gives the mean."""
        return self.mean + self.std * noise

    def rsample(self, samples: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Draw `samples` values per row, [L, B, *latent], differentiable in mean and logvar."""
        shape = (samples, *self.mean.shape)
        return self.reparameterize(
            torch.randn(shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        )

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z|x) in nats, [..., B], for z of [..., B, *latent]."""
        squared = (z - self.mean) ** 2 * torch.exp(-self.logvar)
        return self._over_latents(-0.5 * (squared + self.logvar + log(2 * pi)))

    def kl_to(self, other: "DiagonalGaussian") -> Tensor:
        """Return KL(self || other) in closed form, [B] nats, >= 0."""
        ratio = self.logvar - other.logvar
        distance = (self.mean - other.mean) ** 2 * torch.exp(-other.logvar)
        return self._over_latents(0.5 * (distance + torch.expm1(ratio) - ratio))

    def kl_to_standard(self) -> Tensor:
        """Return KL(q || N(0, I)) in closed form, [B] nats, >= 0; `expm1` avoids cancellation near the prior."""
        return self._over_latents(0.5 * (self.mean**2 + torch.expm1(self.logvar) - self.logvar))

    def _over_latents(self, values: Tensor) -> Tensor:
        return values.flatten(start_dim=values.dim() - self.mean.dim() + 1).sum(-1)
