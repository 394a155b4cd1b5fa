"""Training objectives: bounds on log p(x) in nats, higher is better, each with its own gradient estimator.

elbo   E_q[log p(x|z)] - beta KL(q || p)                                     Kingma and Welling (2014), equation 10
iwae   log 1/K sum_k w_k,   w_k = p(x|z_k) (p(z_k) / q(z_k|x))^beta          Burda et al. (2016), equation 8
dreg   the same value; the gradient of the encoder leaves out the direct dependence of log q(z|x) on its parameters and
       weights each path by the normalised weights v_k:
       sum_k v_k (1 - beta + beta v_k) (d log w_k / d z_k) (d z_k / d phi),   v_k = w_k / sum_j w_j
       with beta = 1, where the factor is v_k^2                                     Tucker et al. (2019), equation 8
"""

from collections.abc import Callable
from math import log
from typing import NamedTuple

from torch import Tensor

from model.elbo import ELBO, LogDensities, log_densities
from model.gaussian import DiagonalGaussian
from model.vae import VAE


class ObjectiveValue(NamedTuple):
    """Value to maximise, [B] nats, and the ELBO estimated from the same draws."""

    objective: Tensor
    elbo: ELBO


Objective = Callable[[VAE, Tensor, Tensor, float], ObjectiveValue]
"""Function of the VAE, x [B, C, H, W], standard normal noise [K, B, *latent] and beta."""


def elbo_objective(vae: VAE, x: Tensor, noise: Tensor, beta: float) -> ObjectiveValue:
    """Return the ELBO with the KL divergence weighted by `beta`."""
    q = vae.posterior(x)
    elbo = ELBO.from_terms(vae.likelihood(q.reparameterize(noise)).log_prob(x).mean(0), q.kl_to_standard())
    return ObjectiveValue(elbo.reconstruction - beta * elbo.kl, elbo)


def iwae_objective(vae: VAE, x: Tensor, noise: Tensor, beta: float) -> ObjectiveValue:
    """Return the importance-weighted bound."""
    q = vae.posterior(x)
    densities = log_densities(vae, x, q.reparameterize(noise), q)
    return _importance_weighted(densities.tempered_log_weights(beta), densities, q)


def dreg_objective(vae: VAE, x: Tensor, noise: Tensor, beta: float) -> ObjectiveValue:
    """Return the importance-weighted bound with the doubly reparameterised gradient."""
    q = vae.posterior(x)
    z = q.reparameterize(noise)
    densities = log_densities(vae, x, z, DiagonalGaussian(q.mean.detach(), q.logvar.detach()))
    log_weights = densities.tempered_log_weights(beta)
    if z.requires_grad:  # d objective / d log w_k is v_k already; the hook on z multiplies by the rest of the factor
        factor = 1 - beta + beta * log_weights.detach().softmax(0)
        z.register_hook(  # type: ignore[no-untyped-call]  # torch's decorator hides its type
            lambda gradient: gradient * factor.reshape(factor.shape + (1,) * (z.dim() - factor.dim()))
        )
    return _importance_weighted(log_weights, densities, q)


OBJECTIVES: dict[str, Objective] = {"elbo": elbo_objective, "iwae": iwae_objective, "dreg": dreg_objective}


def _importance_weighted(log_weights: Tensor, densities: LogDensities, q: DiagonalGaussian) -> ObjectiveValue:
    elbo = ELBO.from_terms(densities.likelihood.mean(0), q.kl_to_standard())
    return ObjectiveValue(log_weights.logsumexp(0) - log(len(log_weights)), elbo)
