"""What the VAE does with a batch: encode, decode, reconstruct and score, from columns to columns.

Columns are arrays until the device gets them: arrays are cut and joined with less ado than tensors.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from app.batching.rows import RowBatch
from model.config import VAEConfig
from model.elbo import bounds
from model.pixels import to_grey_levels, to_unit_interval
from model.vae import VAE

MOST_DRAWS = 64
"""Draws that are scored at once, where the images are small."""

VALUES = 2**22
"""Values of the images that are scored at once: a likelihood keeps some ten floats for each."""


def _encode(vae: VAE, pixels: Tensor) -> tuple[Tensor, ...]:
    q = vae.posterior(to_unit_interval(pixels))
    return q.mean, q.logvar


def _decode(vae: VAE, latents: Tensor) -> tuple[Tensor, ...]:
    return (to_grey_levels(vae.likelihood(latents).mean),)


def _reconstruct(vae: VAE, pixels: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
    return _decode(vae, vae.posterior(to_unit_interval(pixels)).reparameterize(noise))


def _score(vae: VAE, pixels: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
    chunk = max(1, min(MOST_DRAWS, VALUES // (len(pixels) * vae.config.dimensions)))
    found = bounds(vae, to_unit_interval(pixels), noise.shape[1], noise=noise.transpose(0, 1), chunk=chunk)
    return (*found.elbo, found.log_likelihood)


OPERATIONS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "encode": _encode,
    "decode": _decode,
    "reconstruct": _reconstruct,
    "score": _score,
}


def examples(config: VAEConfig, rows: int) -> dict[str, RowBatch]:
    """A stack of zeros for each operation that is computed in batches."""
    pixels = np.zeros((rows, *config.image_shape), np.uint8)
    noise = np.zeros((rows, *config.latent_shape), np.float32)
    return {"encode": RowBatch((pixels,)), "decode": RowBatch((noise,)), "reconstruct": RowBatch((pixels, noise))}


def shapes(largest: int) -> list[int]:
    """How many rows a batch on the device can have: powers of two, and the largest."""
    powers = [2**power for power in range(largest.bit_length()) if 2**power < largest]
    return [*powers, largest]
