"""The endpoints of the contract: ask the engine, write the answer."""

from fastapi import APIRouter, Request, Response

from app import answers
from app.contract import DRAWN_ANSWER, IMAGES_ANSWER, IMAGES_BODY, LATENTS_BODY, NUMBERS_ANSWER, SCORES_ANSWER, problems
from app.parameters import (
    Codes,
    Columns,
    Count,
    Here,
    Limits,
    Numbers,
    Pictures,
    Pixels,
    Ready,
    Samples,
    Scored,
    Seed,
    Temperature,
    require_items,
)
from app.schemas import Latents, Model, Scores, scores_json
from app.seeds import Draws

router = APIRouter(tags=["model"])
_BODY = problems(400, 401, 406, 413, 415, 422, 429, 503, 504)
_QUERY = problems(401, 406, 413, 422, 429, 503, 504)


@router.post("/encode", response_model=Latents, openapi_extra=IMAGES_BODY, responses={200: NUMBERS_ANSWER, **_BODY})
async def encode(
    media: Numbers,
    call: Here,
    served: Ready,
    limits: Limits,
    pixels: Pixels,
    samples: Samples = None,
    seed: Seed = None,
) -> Response:
    """The posterior q(z|x) of each image: mean and logvar, and with `samples` as many draws."""
    if samples is None:
        return await answers.latents(call, media, await served.encode(pixels, call), served.model)
    require_items(len(pixels), samples, limits)
    q = await served.encode(pixels, call, exact=True)
    draws = Draws(seed)
    z = q.at(draws.normal(len(pixels), samples, *served.config.latent_shape).transpose(0, 1))
    return await answers.latents(call, media, q, served.model, z, draws.header)


@router.post("/decode", response_class=Response, openapi_extra=LATENTS_BODY, responses={200: IMAGES_ANSWER, **_BODY})
async def decode(media: Pictures, call: Here, served: Ready, latents: Codes, columns: Columns = None) -> Response:
    """The mean image of p(x|z) for each latent."""
    return await answers.images(call, media, await served.decode(latents, call), columns)


@router.post("/reconstruct", response_class=Response, openapi_extra=IMAGES_BODY, responses={200: DRAWN_ANSWER, **_BODY})
async def reconstruct(
    media: Pictures, call: Here, served: Ready, pixels: Pixels, columns: Columns = None, seed: Seed = None
) -> Response:
    """Each image encoded and decoded: at the posterior mean, or with `seed` at a draw from the posterior."""
    if seed is None:
        return await answers.images(call, media, await served.reconstruct(pixels, None, call), columns)
    draws = Draws(seed)
    noise = draws.normal(len(pixels), *served.config.latent_shape)
    drawn = await served.reconstruct(pixels, noise, call)
    return await answers.images(call, media, drawn, columns, draws.header)


@router.get("/sample", response_class=Response, responses={200: DRAWN_ANSWER, **_QUERY})
async def sample(
    media: Pictures,
    call: Here,
    limits: Limits,
    served: Ready,
    n: Count = 16,
    temperature: Temperature = 1.0,
    columns: Columns = None,
    seed: Seed = None,
) -> Response:
    """New images: the means of p(x|z) for draws z from the prior N(0, I)."""
    require_items(n, 1, limits)
    draws = Draws(seed)
    latents = draws.normal(n, *served.config.latent_shape) * temperature
    return await answers.images(call, media, await served.decode(latents, call, exact=True), columns, draws.header)


@router.post("/score", response_model=Scores, openapi_extra=IMAGES_BODY, responses={200: SCORES_ANSWER, **_BODY})
async def score(
    media: Scored, call: Here, served: Ready, limits: Limits, pixels: Pixels, samples: Samples = None, seed: Seed = None
) -> Response:
    """How well the model explains each image: the ELBO and its terms, and with `samples` the tighter bound."""
    require_items(len(pixels), samples or 1, limits)
    draws = Draws(seed)
    noise = draws.normal(len(pixels), samples or 1, *served.config.latent_shape)
    bounds = await served.score(pixels, noise, call)
    content = scores_json(bounds, served.config, served.reference, with_likelihood=samples is not None)
    return Response(content, headers=draws.header, media_type=media)


@router.get("/model", response_model=Model, responses=problems(401, 406, 413, 422, 503))
async def model(_: Scored, call: Here, request: Request) -> Response:
    """What is served: architecture, shapes, likelihood, the weights' digest, how they were trained."""
    return answers.model(call, request.app.state.engine)
