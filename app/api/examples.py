"""Examples of the OpenAPI document that fit the served model: its shapes, its name, figures of its size."""

import base64
from math import prod
from typing import Any

import numpy as np

from app.api.schemas import PICTURE
from app.codecs.png import write_png
from model.checkpoint import Checkpoint
from model.likelihoods import FAMILIES

MOST_VALUES = 4096
"""Values of a latent that is shown as an example: more would make a document of megabytes."""

MOST_PIXELS = 2**20
"""Pixel values of a picture that is shown as an example."""

Examples = dict[tuple[str, str], Any]


def examples_of(checkpoint: Checkpoint) -> Examples:
    """An example for each property of a schema, by the names of schema and property, that depends on the model.

    None where the model's latents are too large to be shown.
    """
    config, picture = checkpoint.vae.config, _picture(checkpoint.vae.config.image_shape)
    mean = _latent(config.latent_shape, np.sin)
    logvar = _latent(config.latent_shape, lambda steps: np.sin(steps) - 3)
    return {
        ("Posterior", "mean"): mean,
        ("Posterior", "logvar"): logvar,
        ("Posterior", "z"): mean and [mean],
        ("LatentsIn", "latents"): mean and [mean],
        ("LatentsIn", "shape"): list(config.latent_shape),
        ("LatentsIn", "model"): checkpoint.identity,
        ("Latents", "shape"): list(config.latent_shape),
        ("Latents", "model"): checkpoint.identity,
        ("Images", "images"): [picture],
        ("History", "model"): checkpoint.identity,
        **{("Score", name): value for name, value in _score(checkpoint).items()},
        **{("Model", name): value for name, value in _model(checkpoint).items()},
    }


def _latent(shape: tuple[int, ...], value: Any) -> Any:
    if prod(shape) > MOST_VALUES:
        return None
    return np.round(value(np.arange(prod(shape), dtype=float)), 2).reshape(shape).tolist()


def _picture(shape: tuple[int, ...]) -> str:
    """A ring of the model's size, as a PNG file in base64; a small digit where that would be large."""
    if prod(shape) > MOST_PIXELS:
        return PICTURE
    _, height, width = shape
    y, x = (np.linspace(-1, 1, length)[:, None] for length in (height, width))
    ring = np.abs(np.hypot(y, 1.4 * x.T) - 0.7) < 0.2
    return base64.b64encode(write_png(np.broadcast_to(np.uint8(255) * ring, shape).copy())).decode()


def _score(checkpoint: Checkpoint) -> dict[str, float]:
    """Figures that add up, of a size that images and latents of these shapes may have."""
    config = checkpoint.vae.config
    reconstruction, kl = round(-0.07 * config.dimensions, 1), round(0.8 * prod(config.latent_shape), 1)
    elbo = round(reconstruction - kl, 1)
    bits = round(float(FAMILIES[config.likelihood].bits_per_dim(elbo, config.dimensions)), 3)
    likelihood = round(elbo + 0.1 * kl, 1)
    return {
        "elbo": elbo,
        "reconstruction": reconstruction,
        "kl": kl,
        "bits_per_dim": bits,
        "log_likelihood": likelihood,
    }


def _model(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.vae.config
    return {
        "model": checkpoint.identity,
        "digest": checkpoint.digest,
        "image_shape": list(config.image_shape),
        "latent_shape": list(config.latent_shape),
        "likelihood": config.likelihood,
        "parameters": checkpoint.parameters,
        "architecture": config.as_dict(),
    }
