"""The operations of a model: encode, decode, reconstruct and score, as functions from tensors to tensors."""

from collections.abc import Callable
from typing import cast

import numpy as np
from torch import Tensor

from app.batching.rows import RowBatch
from app.context import Operation
from model.elbo import bounds
from model.gaussian import DiagonalGaussian
from model.interface import Autoencoder, ImageModel, ModelSpec
from model.pixels import to_grey_levels, to_unit_interval
from model.statistics import image_statistics

MAX_DRAWS = 64
"""Number of draws that are scored at once if the images are small."""

MAX_SCORED_VALUES = 2**21
"""Number of image values that are scored at once: a likelihood needs about ten floats or doubles for each."""


def _encode(model: ImageModel, pixels: Tensor) -> tuple[Tensor, ...]:
    q = model.posterior(to_unit_interval(pixels))
    return (q.mean,) if q.logvar is None else (q.mean, q.logvar)


def _decode(model: ImageModel, latents: Tensor) -> tuple[Tensor, ...]:
    return (to_grey_levels(model.likelihood(latents).mean),)


def _decode_floats(model: ImageModel, latents: Tensor) -> tuple[Tensor, ...]:
    return (model.likelihood(latents).mean.float(),)


def _reconstruct(model: ImageModel, pixels: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
    return _decode(model, model.posterior(to_unit_interval(pixels)).reparameterize(noise))


def _deviations(model: ImageModel, pixels: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
    """Return the image minus its reconstruction, in standard deviations of p(x|z) if it has a scale."""
    x = to_unit_interval(pixels)
    p = model.likelihood(model.posterior(x).reparameterize(noise))
    difference = x - p.mean
    return ((difference if p.deviation is None else difference / p.deviation).float(),)


def _score(model: ImageModel, pixels: Tensor, noise: Tensor | None = None) -> tuple[Tensor, ...]:
    """Return both bounds by the draws of `noise` [B, K, *latent], if there is any, and the statistics of each image."""
    x = to_unit_interval(pixels)
    q = model.posterior(x)
    statistics = image_statistics(model, x, q)
    if noise is None or not isinstance(q, DiagonalGaussian):
        return tuple(statistics)
    chunk = max(1, min(MAX_DRAWS, MAX_SCORED_VALUES // pixels.numel()))
    vae = cast("Autoencoder", model)  # only a model with an ELBO is scored by draws
    found = bounds(vae, x, noise.shape[1], noise=noise.transpose(0, 1), chunk=chunk, q=q)
    return (*found.elbo, *found[1:], *statistics)


OPERATIONS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    Operation.ENCODE: _encode,
    Operation.DECODE: _decode,
    Operation.DECODE_FLOATS: _decode_floats,
    Operation.RECONSTRUCT: _reconstruct,
    Operation.DEVIATIONS: _deviations,
    Operation.SCORE: _score,
}


def examples(spec: ModelSpec, rows: int) -> dict[Operation, RowBatch]:
    """Return a batch of zeros for each operation that is computed in batches."""
    pixels = np.zeros((rows, *spec.image_shape), np.uint8)
    noise = np.zeros((rows, *spec.latent_shape), np.float32)
    return {
        Operation.ENCODE: RowBatch((pixels,)),
        Operation.DECODE: RowBatch((noise,)),
        Operation.RECONSTRUCT: RowBatch((pixels, noise)),
    }


def batch_sizes(largest: int) -> list[int]:
    """Return the sizes that batches are padded to: powers of two, and the largest."""
    powers = [2**power for power in range(largest.bit_length()) if 2**power < largest]
    return [*powers, largest]
