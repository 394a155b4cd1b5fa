"""Endpoints of the model: encode, decode, reconstruct, sample, interpolate, score, and what is served."""

from app.api import capabilities, responses
from app.api.endpoint import Endpoint, EndpointRequest, Response
from app.api.interpolation import interpolate
from app.api.json_parameters import read_parameters
from app.api.openapi import (
    ENDS_BODY,
    IMAGES_BODY,
    IMAGES_RESPONSE,
    LATENTS_BODY,
    LATENTS_RESPONSE,
    PARAMETERS_BODY,
    SCORES_RESPONSE,
    SEEDED_IMAGES_RESPONSE,
    problems,
)
from app.api.query import (
    DecodeQuery,
    EncodeQuery,
    InterpolateQuery,
    Query,
    ReconstructQuery,
    SampleQuery,
    ScoreQuery,
)
from app.api.request_bodies import read_images, read_latents
from app.api.responses import IMAGES, NUMBERS
from app.api.schemas import History, Latents, Model, Scores
from app.api.scoring import require_scores, score_images
from app.context import EndpointPath, Operation
from app.inference.image_sizes import size_of_request
from app.inference.noise import Noise


async def encode(request: EndpointRequest, query: EncodeQuery) -> Response:
    """The posterior q(z|x) of each image: mean and logvar, and with `samples` as many draws."""
    model = request.model()
    if query.samples is not None:
        capabilities.require(model.spec, capabilities.SAMPLES, "samples")
    pixels = await read_images(request, model, query, Operation.ENCODE, query.samples or 0)
    if query.samples is None:
        rows = await model.encode(pixels, request.context)
        return await responses.latents(request, rows, model, scaled=query.scaled, as_base64=query.encoding == "base64")
    posterior = await model.posterior(pixels, request.context, deterministic=True)
    noise = Noise(query.seed)
    eps = noise.normal(len(pixels), query.samples, *model.latents_of(pixels))
    z = posterior.reparameterize(eps.transpose(0, 1))
    rows = [tensor.numpy() for tensor in (posterior.mean, posterior.logvar, *z)]
    as_base64 = query.encoding == "base64"
    return await responses.latents(request, rows, model, noise, scaled=query.scaled, as_base64=as_base64)


async def decode(request: EndpointRequest, query: DecodeQuery) -> Response:
    """The mean image of p(x|z) for each latent."""
    model = request.model()
    latents = await read_latents(request, model, scaled=query.scaled)
    request.reserve(model, Operation.DECODE, len(latents), part="latents", size=model.size_of(latents))
    pixels = await model.decode(latents, request.context)
    return await responses.images(request, pixels, query.columns, quality=query.quality)


async def reconstruct(request: EndpointRequest, query: ReconstructQuery) -> Response:
    """Each image encoded and decoded: at the posterior mean, or with `seed` at a draw from the posterior.

    With `output=error` a map of where the image deviates from that.
    """
    model = request.model()
    if query.seed is not None:
        capabilities.require(model.spec, capabilities.SAMPLES, "seed")
    is_map = query.output == "error"
    pixels = await read_images(request, model, query, Operation.DEVIATIONS if is_map else Operation.RECONSTRUCT)
    noise = None if query.seed is None else Noise(query.seed)
    eps = noise.normal(len(pixels), *model.latents_of(pixels)) if noise else None
    if is_map:
        deviations = await model.deviations(pixels, eps, request.context)
        return await responses.error_maps(request, deviations, model.spec, query.columns, noise, query.quality)
    reconstructed = await model.reconstruct(pixels, eps, request.context)
    return await responses.images(request, reconstructed, query.columns, noise, query.quality)


async def sample(request: EndpointRequest, query: SampleQuery) -> Response:
    """New images: the means of p(x|z) for draws z from the prior N(0, I)."""
    model = request.model()
    if not query.force:
        capabilities.require(model.spec, capabilities.SAMPLE, "/sample")
    rule, limits = model.spec.sizes, request.services.limits
    size = size_of_request(rule, (query.height, query.width), rule.default_size, limits.max_image_pixels)
    request.reserve(model, Operation.DECODE, query.n, part="n", size=size)
    request.services.engine.check_capacity(query.n)
    noise = Noise(query.seed)
    latents = noise.normal(query.n, *rule.latents_of(*size)) * query.temperature
    pixels = await model.decode(latents, request.context, deterministic=True)
    return await responses.images(request, pixels, query.columns, noise, query.quality)


async def sample_post(request: EndpointRequest, query: SampleQuery) -> Response:
    """As GET /sample, with the parameters as a JSON object in the body, in the query, or some in each."""
    return await sample(request, await read_parameters(request, query))


async def score(request: EndpointRequest, query: ScoreQuery) -> Response:
    """How well the model explains each image: the ELBO and its terms, and with `samples` the tighter bound.

    All are estimates by draws from the posterior, by eight without `samples`: another seed gives other figures.
    For a model without a density of images, the error of the reconstruction at the posterior mean.
    """
    model = request.model()
    require_scores(model, query)
    pixels = await read_images(request, model, query, Operation.SCORE, query.samples or 0)
    scored = await score_images(request, model, query, pixels)
    return responses.scores(scored.columns, scored.noise)


async def model(request: EndpointRequest, query: Query) -> Response:  # noqa: ARG001
    """What is served: architecture, shapes, likelihood, the weights' digest."""
    return responses.model(request)


async def history(request: EndpointRequest, query: Query) -> Response:  # noqa: ARG001
    """How the served model was trained and evaluated: options, data, epochs, figures, percentiles of its scores."""
    return responses.history(request)


_BODY_PROBLEMS = problems(400, 401, 406, 408, 413, 415, 422, 429, 503, 504)
_SAMPLE_PROBLEMS = problems(401, 406, 413, 422, 429, 503, 504)
_MODEL_PROBLEMS = problems(401, 406, 413, 422, 503)

ENDPOINTS = (
    Endpoint(
        EndpointPath.ENCODE,
        encode,
        "POST",
        EncodeQuery,
        NUMBERS,
        {
            "response_model": Latents,
            "openapi_extra": IMAGES_BODY,
            "responses": {200: LATENTS_RESPONSE, **_BODY_PROBLEMS},
        },
    ),
    Endpoint(
        EndpointPath.DECODE,
        decode,
        "POST",
        DecodeQuery,
        IMAGES,
        {"openapi_extra": LATENTS_BODY, "responses": {200: IMAGES_RESPONSE, **_BODY_PROBLEMS}},
    ),
    Endpoint(
        EndpointPath.RECONSTRUCT,
        reconstruct,
        "POST",
        ReconstructQuery,
        IMAGES,
        {"openapi_extra": IMAGES_BODY, "responses": {200: SEEDED_IMAGES_RESPONSE, **_BODY_PROBLEMS}},
    ),
    Endpoint(
        EndpointPath.SAMPLE,
        sample,
        "GET",
        SampleQuery,
        IMAGES,
        {"responses": {200: SEEDED_IMAGES_RESPONSE, **_SAMPLE_PROBLEMS}},
    ),
    Endpoint(
        EndpointPath.SAMPLE,
        sample_post,
        "POST",
        SampleQuery,
        IMAGES,
        {"openapi_extra": PARAMETERS_BODY, "responses": {200: SEEDED_IMAGES_RESPONSE, **_BODY_PROBLEMS}},
    ),
    Endpoint(
        EndpointPath.INTERPOLATE,
        interpolate,
        "POST",
        InterpolateQuery,
        IMAGES,
        {"openapi_extra": ENDS_BODY, "responses": {200: IMAGES_RESPONSE, **_BODY_PROBLEMS}},
    ),
    Endpoint(
        EndpointPath.SCORE,
        score,
        "POST",
        ScoreQuery,
        documentation={
            "response_model": Scores,
            "openapi_extra": IMAGES_BODY,
            "responses": {200: SCORES_RESPONSE, **_BODY_PROBLEMS},
        },
    ),
    Endpoint(
        EndpointPath.MODEL,
        model,
        documentation={"response_model": Model, "responses": _MODEL_PROBLEMS},
    ),
    Endpoint(
        EndpointPath.HISTORY,
        history,
        documentation={"response_model": History, "responses": _MODEL_PROBLEMS},
    ),
)
