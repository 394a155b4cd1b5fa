"""Examples of the OpenAPI document that are valid for the served model: shapes, name and typical scores."""

import base64
from math import prod
from typing import Any

import numpy as np

from app.api.schemas import EXAMPLE_PNG
from app.codecs.png import write_png
from model.interface import ModelSpec
from model.likelihoods import bits_per_dim

MAX_LATENT_VALUES = 4096
"""Values of a latent in an example; more would make a document of megabytes."""

MAX_PIXEL_VALUES = 2**20
"""Pixel values of an image in an example."""

Examples = dict[tuple[str, str], Any]


def examples_of(spec: ModelSpec) -> Examples:
    """Return an example for each property that depends on the model, by the names of schema and property.

    An example is None if the latents of the model are too large for it.
    """
    image = _image(spec.image_shape)
    mean = _latent(spec.latent_shape, np.sin)
    logvar = _latent(spec.latent_shape, lambda steps: np.sin(steps) - 3) if spec.has_variance else None
    return {
        ("Posterior", "mean"): mean,
        ("Posterior", "logvar"): logvar,
        ("Posterior", "z"): [mean] if mean and logvar else None,
        ("LatentsIn", "latents"): mean and [mean],
        ("LatentsIn", "shape"): list(spec.latent_shape),
        ("LatentsIn", "model"): spec.identity,
        ("Latents", "shape"): list(spec.latent_shape),
        ("Latents", "model"): spec.identity,
        ("Images", "images"): [image],
        ("History", "model"): spec.identity,
        **({("Score", name): value for name, value in _score(spec).items()} if spec.has_elbo else {}),
        **{("Model", name): value for name, value in _model(spec).items()},
    }


def _latent(shape: tuple[int, ...], value: Any) -> Any:
    if prod(shape) > MAX_LATENT_VALUES:
        return None
    return np.round(value(np.arange(prod(shape), dtype=float)), 2).reshape(shape).tolist()


def _image(shape: tuple[int, ...]) -> str:
    """Return a ring of the model's size, as a PNG file in base64; for large models a small digit."""
    if prod(shape) > MAX_PIXEL_VALUES:
        return EXAMPLE_PNG
    _, height, width = shape
    y, x = (np.linspace(-1, 1, length)[:, None] for length in (height, width))
    ring = np.abs(np.hypot(y, 1.4 * x.T) - 0.7) < 0.2
    return base64.b64encode(write_png(np.broadcast_to(np.uint8(255) * ring, shape).copy())).decode()


def _score(spec: ModelSpec) -> dict[str, float]:
    """Return scores that are consistent, and typical for images and latents of these shapes."""
    reconstruction, kl = round(-0.07 * spec.image_values, 1), round(0.8 * prod(spec.latent_shape), 1)
    elbo = round(reconstruction - kl, 1)
    bits = round(bits_per_dim(elbo, spec.image_values), 3)
    likelihood = round(elbo + 0.1 * kl, 1)
    return {
        "elbo": elbo,
        "reconstruction": reconstruction,
        "kl": kl,
        "bits_per_dim": bits,
        "log_likelihood": likelihood,
    }


def _model(spec: ModelSpec) -> dict[str, Any]:
    return {
        "model": spec.identity,
        "digest": spec.digest,
        "format": spec.format,
        "source": spec.source,
        "image_shape": list(spec.image_shape),
        "latent_shape": list(spec.latent_shape),
        "likelihood": spec.likelihood,
        "parameters": spec.parameters,
        "architecture": dict(spec.architecture),
    }
