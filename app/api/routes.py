"""The endpoints of the contract: ask the engine, write the answer."""

from fastapi import APIRouter, Request, Response

from app.api import responses as answers
from app.api.dependencies import (
    LATENTS,
    OBJECT,
    PICTURES,
    Columns,
    Count,
    EndpointRequest,
    FitTo,
    Samples,
    Seed,
    Temperature,
)
from app.api.openapi import (
    DRAWN_ANSWER,
    IMAGES_ANSWER,
    IMAGES_BODY,
    LATENTS_BODY,
    NUMBERS_ANSWER,
    SCORES_ANSWER,
    problems,
)
from app.api.schemas import History, Latents, Model, Scores, scores_json
from app.inference.noise import Noise

router = APIRouter(tags=["model"])
_BODY = problems(400, 401, 406, 413, 415, 422, 429, 503, 504)
_QUERY = problems(401, 406, 413, 422, 429, 503, 504)


@router.post("/encode", response_model=Latents, openapi_extra=IMAGES_BODY, responses={200: NUMBERS_ANSWER, **_BODY})
async def encode(request: Request, samples: Samples = None, seed: Seed = None, fit: FitTo = "resize") -> Response:
    """The posterior q(z|x) of each image: mean and logvar, and with `samples` as many draws."""
    asked = EndpointRequest(request, LATENTS)
    served = asked.served
    pixels = await asked.pixels(fit, "encode", samples or 0)
    if samples is None:
        return await answers.latents(
            asked.context, asked.media, await served.encode(pixels, asked.context), served.model
        )
    q = await served.posterior(pixels, asked.context, exact=True)
    draws = Noise(seed)
    z = q.reparameterize(draws.normal(len(pixels), samples, *served.config.latent_shape).transpose(0, 1))
    rows = [tensor.numpy() for tensor in (q.mean, q.logvar, *z)]
    return await answers.latents(asked.context, asked.media, rows, served.model, draws.header)


@router.post("/decode", response_class=Response, openapi_extra=LATENTS_BODY, responses={200: IMAGES_ANSWER, **_BODY})
async def decode(request: Request, columns: Columns = None) -> Response:
    """The mean image of p(x|z) for each latent."""
    asked = EndpointRequest(request, PICTURES)
    latents = await asked.latents()
    asked.reserve("latents", len(latents), "decode")
    return await answers.images(asked.context, asked.media, await asked.served.decode(latents, asked.context), columns)


@router.post("/reconstruct", response_class=Response, openapi_extra=IMAGES_BODY, responses={200: DRAWN_ANSWER, **_BODY})
async def reconstruct(request: Request, columns: Columns = None, seed: Seed = None, fit: FitTo = "resize") -> Response:
    """Each image encoded and decoded: at the posterior mean, or with `seed` at a draw from the posterior."""
    asked = EndpointRequest(request, PICTURES)
    pixels = await asked.pixels(fit, "reconstruct")
    draws = None if seed is None else Noise(seed)
    noise = draws.normal(len(pixels), *asked.served.config.latent_shape) if draws else None
    drawn = await asked.served.reconstruct(pixels, noise, asked.context)
    return await answers.images(asked.context, asked.media, drawn, columns, draws.header if draws else None)


@router.get("/sample", response_class=Response, responses={200: DRAWN_ANSWER, **_QUERY})
async def sample(
    request: Request, n: Count = 16, temperature: Temperature = 1.0, columns: Columns = None, seed: Seed = None
) -> Response:
    """New images: the means of p(x|z) for draws z from the prior N(0, I)."""
    asked = EndpointRequest(request, PICTURES)
    served = asked.served
    asked.require_items(n)
    asked.reserve("n", n, "decode")
    asked.engine.require_room(n)
    draws = Noise(seed)
    latents = draws.normal(n, *served.config.latent_shape) * temperature
    decoded = await served.decode(latents, asked.context, exact=True)
    return await answers.images(asked.context, asked.media, decoded, columns, draws.header)


@router.post("/score", response_model=Scores, openapi_extra=IMAGES_BODY, responses={200: SCORES_ANSWER, **_BODY})
async def score(request: Request, samples: Samples = None, seed: Seed = None, fit: FitTo = "resize") -> Response:
    """How well the model explains each image: the ELBO and its terms, and with `samples` the tighter bound.

    All are estimates by draws from the posterior, a single one without `samples`: another seed gives other figures.
    """
    asked = EndpointRequest(request, OBJECT)
    served = asked.served
    pixels = await asked.pixels(fit, "score", samples or 1)
    draws = Noise(seed)
    noise = draws.normal(len(pixels), samples or 1, *served.config.latent_shape)
    bounds = await served.score(pixels, noise, asked.context)
    content = scores_json(bounds, served.config, served.reference, with_likelihood=samples is not None)
    return Response(content, headers=draws.header, media_type=asked.media)


@router.get("/model", response_model=Model, responses=problems(401, 406, 413, 422, 503))
async def model(request: Request) -> Response:
    """What is served: architecture, shapes, likelihood, the weights' digest."""
    return answers.model(EndpointRequest(request, OBJECT).context, request.app.state.services.engine)


@router.get("/model/history", response_model=History, responses=problems(401, 406, 413, 422, 503))
async def history(request: Request) -> Response:
    """How the served model was trained and evaluated: options, data, epochs, figures, percentiles of its scores."""
    return answers.history(EndpointRequest(request, OBJECT).context, request.app.state.services.engine)
