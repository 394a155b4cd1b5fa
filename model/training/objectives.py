"""What a training climbs: each a bound on log p(x) with a gradient of its own, in nats, higher is better.

elbo   E_q[log p(x|z)] - beta KL(q || p)                                     Kingma and Welling (2014), equation 10
iwae   log 1/K sum_k w_k,   w_k = p(x|z_k) (p(z_k) / q(z_k|x))^beta          Burda et al. (2016), equation 8
dreg   the same value; in the encoder's gradient log q(z|x) counts only through z, by the normalised weights v_k:
       sum_k v_k (1 - beta + beta v_k) (d log w_k / d z_k) (d z_k / d phi),   v_k = w_k / sum_j w_j
       with beta = 1, where the factor is v_k^2                                     Tucker et al. (2019), equation 8
"""

from collections.abc import Callable
from math import log
from typing import NamedTuple

from torch import Tensor

from model.elbo import ELBO
from model.gaussian import DiagonalGaussian
from model.vae import VAE


class ObjectiveValue(NamedTuple):
    """What is climbed, [B] nats, and the ELBO by the same draws."""

    objective: Tensor
    elbo: ELBO


Objective = Callable[[VAE, Tensor, Tensor, float], ObjectiveValue]
"""Of the VAE, x [B, C, H, W], noise [K, B, *latent] and beta."""


def ascend_elbo(vae: VAE, x: Tensor, noise: Tensor, beta: float) -> ObjectiveValue:
    """The ELBO by the draws that `noise` leads to, its KL weighed by `beta`."""
    q = vae.posterior(x)
    reconstruction, kl = vae.likelihood(q.reparameterize(noise)).log_prob(x).mean(0), q.kl_to_standard()
    return ObjectiveValue(reconstruction - beta * kl, ELBO(reconstruction - kl, reconstruction, kl))


def ascend_iwae(vae: VAE, x: Tensor, noise: Tensor, beta: float) -> ObjectiveValue:
    """The importance-weighted bound by the draws that `noise` leads to."""
    q = vae.posterior(x)
    log_weights, bound = _weigh(vae, x, q, q, q.reparameterize(noise), beta)
    return ObjectiveValue(log_weights.logsumexp(0) - log(len(noise)), bound)


def ascend_dreg(vae: VAE, x: Tensor, noise: Tensor, beta: float) -> ObjectiveValue:
    """The importance-weighted bound with the doubly reparameterised gradient."""
    q = vae.posterior(x)
    z = q.reparameterize(noise)
    log_weights, bound = _weigh(vae, x, q, DiagonalGaussian(q.mean.detach(), q.logvar.detach()), z, beta)
    if z.requires_grad:  # d objective / d log w_k is v_k already: the rest of the factor comes on the way through z
        rest = 1 - beta + beta * log_weights.detach().softmax(0)
        z.register_hook(  # type: ignore[no-untyped-call]  # torch's decorator hides its type
            lambda gradient: gradient * rest.reshape(rest.shape + (1,) * (z.dim() - rest.dim()))
        )
    return ObjectiveValue(log_weights.logsumexp(0) - log(len(noise)), bound)


OBJECTIVES: dict[str, Objective] = {"elbo": ascend_elbo, "iwae": ascend_iwae, "dreg": ascend_dreg}


def _weigh(
    vae: VAE, x: Tensor, q: DiagonalGaussian, density: DiagonalGaussian, z: Tensor, beta: float
) -> tuple[Tensor, ELBO]:
    log_p, kl = vae.likelihood(z).log_prob(x), q.kl_to_standard()
    prior = DiagonalGaussian.standard(q.mean)
    log_weights = log_p + beta * (prior.log_prob(z) - density.log_prob(z))
    reconstruction = log_p.mean(0)
    return log_weights, ELBO(reconstruction - kl, reconstruction, kl)
