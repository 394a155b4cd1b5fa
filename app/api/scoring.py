"""Scores of images, whatever the dialect: draws, the fields of each score, and what the model cannot do."""

from math import prod
from typing import NamedTuple

import numpy as np
from torch import Tensor

from app.api import capabilities
from app.api.endpoint import EndpointRequest
from app.api.query import ScoreQuery
from app.api.request_bodies import PER_IMAGE_COST
from app.api.responses import reconstruction_columns, score_columns
from app.inference.loaded_model import LoadedModel
from app.inference.noise import Noise
from model.elbo import SCORE_DRAWS


class Scored(NamedTuple):
    """The fields of `schemas.Score` or `schemas.ReconstructionScore`, each [N], and the noise if there were draws."""

    columns: dict[str, np.ndarray]
    noise: Noise | None = None


def require_scores(model: LoadedModel, query: ScoreQuery, where: str = "") -> None:
    """Raise `UnsupportedByModel` for a parameter, named after `where`, that asks for what the model lacks."""
    if query.samples is not None:
        capabilities.require(model.spec, capabilities.ELBO, f"{where}samples")


async def score_images(request: EndpointRequest, model: LoadedModel, query: ScoreQuery, pixels: np.ndarray) -> Scored:
    """Score images, uint8 [N, C, H, W]: by the ELBO, or without a density by the error of the reconstruction."""
    if not model.spec.has_elbo:
        return Scored(reconstruction_columns(await model.reconstruction_errors(pixels, request.context)))
    noise = Noise(query.seed)
    eps = await _draws(request, model, noise, pixels, query.samples or SCORE_DRAWS)
    bounds = await model.score(pixels, eps, request.context)
    with_likelihood = query.samples is not None
    return Scored(score_columns(bounds, model.spec, model.reference, with_likelihood=with_likelihood), noise)


async def _draws(request: EndpointRequest, model: LoadedModel, noise: Noise, pixels: np.ndarray, count: int) -> Tensor:
    """Return the noise of so many draws for each image, [N, K, *latent]."""
    shape = (count, *model.latents_of(pixels))
    cost = pixels.size + len(pixels) * (PER_IMAGE_COST + prod(shape))
    return await request.run_codec(cost, noise.for_images, pixels, *shape)
