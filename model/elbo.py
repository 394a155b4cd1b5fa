"""The bounds on log p(x), in nats, higher is better.

    ELBO(x)  = E_q(z|x)[log p(x|z)] - KL(q(z|x) || p(z))  <=  log p(x)
    E_q[log p(x|z)]  ~  1/L sum_l log p(x|z_l),   z_l = mu + sigma * eps_l

    log p(x)  >=  log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x)     in expectation, tighter with every K

The ELBO: Kingma and Welling (2014), equations 3, 7 and 10. The importance-weighted bound: Burda, Grosse and
Salakhutdinov, "Importance Weighted Autoencoders" (2016), equation 8.
"""

from math import log
from typing import NamedTuple

import torch
from torch import Tensor

from model.gaussian import DiagonalGaussian
from model.vae import VAE


class ELBO(NamedTuple):
    """The bound and its two terms, [B] nats each: total = reconstruction - kl."""

    total: Tensor
    reconstruction: Tensor
    kl: Tensor


class Bounds(NamedTuple):
    """Both bounds from the same draws: `log_likelihood` is the importance-weighted one, [B] nats."""

    elbo: ELBO
    log_likelihood: Tensor


def elbo(vae: VAE, x: Tensor, samples: int = 1, noise: Tensor | None = None) -> ELBO:
    """The ELBO of x [B, C, H, W] by `samples` draws, or by the draws that `noise` [L, B, *latent] leads to."""
    q = vae.posterior(x)
    z = q.rsample(samples) if noise is None else q.reparameterize(noise)
    return _from_terms(vae.likelihood(z).log_prob(x).mean(0), q)


def bounds(vae: VAE, x: Tensor, samples: int, noise: Tensor | None = None, chunk: int = 64) -> Bounds:
    """Both bounds of x [B, C, H, W] by `samples` draws (or by `noise`), of which `chunk` are in memory at once."""
    q = vae.posterior(x)
    prior = DiagonalGaussian.standard(q.mean)
    draws = len(noise) if noise is not None else samples
    reconstruction = torch.zeros_like(x[:, 0, 0, 0])
    log_sum = torch.full_like(reconstruction, -torch.inf)
    for start in range(0, draws, chunk):
        count = min(chunk, draws - start)
        z = q.rsample(count) if noise is None else q.reparameterize(noise[start : start + count])
        log_p = vae.likelihood(z).log_prob(x)
        log_weights = log_p + prior.log_prob(z) - q.log_prob(z)
        log_sum = torch.logaddexp(log_sum, log_weights.logsumexp(0))
        reconstruction = reconstruction + log_p.sum(0)
    return Bounds(_from_terms(reconstruction / draws, q), log_sum - log(draws))


def log_likelihood(vae: VAE, x: Tensor, samples: int, chunk: int = 64) -> Tensor:
    """The importance-weighted bound on log p(x) of x [B, C, H, W] with `samples` draws, [B] nats."""
    return bounds(vae, x, samples, chunk=chunk).log_likelihood


def _from_terms(reconstruction: Tensor, q: DiagonalGaussian) -> ELBO:
    kl = q.kl_to_standard()
    return ELBO(reconstruction - kl, reconstruction, kl)
