"""Scores of images for every dialect: draws, the fields of each score, and what the model cannot do."""

from math import ceil, prod
from typing import NamedTuple

import numpy as np
from torch import Tensor

from app.api import capabilities
from app.api.endpoint import EndpointRequest
from app.api.query import ScoreQuery
from app.api.request_bodies import PER_IMAGE_COST
from app.errors import UnprocessableContent
from app.inference.loaded_model import LoadedModel, Scores
from app.inference.noise import Noise
from model.elbo import SCORE_DRAWS, Bounds
from model.elbo_percentiles import ElboPercentiles
from model.interface import ModelSpec
from model.likelihoods import bits_per_dim
from model.typicality import Typicality

DENSITY_COST = 20_000
"""Bytes or pixels of codec work that take as long as the typicality of one image, some 70 us."""

DECIMALS = 10**6
"""Inverse of the step to which the smallest alpha is rounded up in an error."""

Columns = dict[str, np.ndarray]
"""The fields of `schemas.Score` or `schemas.ReconstructionScore`, each [N]."""


class Scored(NamedTuple):
    """The fields of the scores, and the noise if there were draws."""

    columns: Columns
    noise: Noise | None = None


def require_scores(model: LoadedModel, query: ScoreQuery, where: str = "") -> None:
    """Raise `UnsupportedByModel` for a parameter, named after `where`, that asks for what the model lacks.

    Raises `UnprocessableContent` for an alpha below all typicalities.
    """
    if query.samples is not None:
        capabilities.require(model.spec, capabilities.ELBO, f"{where}samples")
    if query.alpha is not None:
        require_decidable(model.spec, model.typicality, query.alpha, f"{where}alpha")


def require_decidable(spec: ModelSpec, typicality: Typicality | None, alpha: float, name: str = "alpha") -> None:
    """Raise `UnsupportedByModel` without a calibration, `UnprocessableContent` if no image can be anomalous.

    `name` is that of the parameter with `alpha`.
    """
    capabilities.require(spec, capabilities.TYPICALITY, name, typicality)
    if typicality and alpha < typicality.smallest:
        least = ceil(DECIMALS * typicality.smallest) / DECIMALS
        ranks = f"the smallest typicality among {len(typicality.ranks):,} ranks"
        raise UnprocessableContent(f"{name}: expected at least {least:g}, {ranks}, got {alpha:g}")


async def score_images(request: EndpointRequest, model: LoadedModel, query: ScoreQuery, pixels: np.ndarray) -> Scored:
    """Score images, uint8 [N, C, H, W]: by the ELBO, or without a density by the error of the reconstruction."""
    typicality = _calibrated(model.typicality, pixels, query.alpha)
    noise = eps = None
    if model.spec.has_elbo:
        noise = Noise(query.seed)
        eps = await _draws(request, model, noise, pixels, query.samples or SCORE_DRAWS)
    scores = await model.score(pixels, eps, request.context)
    columns = score_columns(scores, model.spec, model.reference, with_likelihood=query.samples is not None)
    if typicality:
        columns |= await request.run_codec(
            DENSITY_COST * len(pixels), typicality_columns, scores, typicality, query.alpha
        )
    return Scored(columns, noise)


def score_columns(
    scores: Scores, spec: ModelSpec, reference: ElboPercentiles | None, *, with_likelihood: bool
) -> Columns:
    """Return the fields of scores besides the typicality; they have a percentile if there is a reference."""
    if scores.bounds is None:
        return reconstruction_columns(scores)
    columns = bounds_columns(scores.bounds, spec, with_likelihood=with_likelihood)
    return columns | ({"percentile": reference.percentile(columns["elbo"])} if reference else {})


def bounds_columns(bounds: Bounds, spec: ModelSpec, *, with_likelihood: bool) -> Columns:
    """Return the ELBO with its terms, and the importance-weighted bound if it was asked for."""
    total, reconstruction, kl = bounds.elbo
    bits = bits_per_dim(bounds.level_elbo, spec.image_values)
    tensors = {"elbo": total, "reconstruction": reconstruction, "kl": kl, "bits_per_dim": bits}
    if with_likelihood:
        tensors["log_likelihood"] = bounds.log_likelihood
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def reconstruction_columns(scores: Scores) -> Columns:
    """Return the error of the reconstruction; the peak signal-to-noise ratio is infinite without an error."""
    squared = scores.statistic("squared_error")
    with np.errstate(divide="ignore"):
        columns = {"squared_error": squared, "psnr": -10 * np.log10(squared)}
    return columns | ({"kl": scores.statistic("kl")} if "kl" in scores.names else {})


def typicality_columns(scores: Scores, typicality: Typicality, alpha: float | None) -> Columns:
    """Return the typicality, and with `alpha` which images are anomalous."""
    found = typicality.p_values(scores.untypical(typicality))
    return {"typicality": found} | ({} if alpha is None else {"anomalous": found <= alpha})


def _calibrated(typicality: Typicality | None, pixels: np.ndarray, alpha: float | None) -> Typicality | None:
    """Return the calibration if it holds for images of this size; `alpha` requires that."""
    if typicality is None or typicality.image_shape == pixels.shape[1:]:
        return typicality
    if alpha is not None:
        (_, height, width), (rows, columns) = typicality.image_shape, pixels.shape[-2:]
        expected = f"images of {width} x {height} pixels, for which the typicality is calibrated"
        raise UnprocessableContent(f"alpha: expected {expected}, got {columns} x {rows}")
    return None


async def _draws(request: EndpointRequest, model: LoadedModel, noise: Noise, pixels: np.ndarray, count: int) -> Tensor:
    """Return the noise of so many draws for each image, [N, K, *latent]."""
    shape = (count, *model.latents_of(pixels))
    cost = pixels.size + len(pixels) * (PER_IMAGE_COST + prod(shape))
    return await request.run_codec(cost, noise.for_images, pixels, *shape)
