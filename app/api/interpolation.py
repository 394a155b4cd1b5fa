"""Interpolation between two latents: along a straight line, or a great circle (Shoemake, 1985)."""

import re

import numpy as np

from app.api import responses
from app.api.endpoint import EndpointRequest, Response
from app.api.query import InterpolateQuery
from app.api.request_bodies import read_body, read_images, read_latents
from app.codecs.media_types import JSON, NPY, kind_of
from app.codecs.npy import read_header
from app.context import Operation
from app.errors import UnprocessableContent
from app.inference.loaded_model import LoadedModel

_EXPECTED = "two images or two latents"
_LEAST_SINE = 1e-4
"""Sine of the angle between two latents below which their great circle is computed as a line."""

_IMAGES = re.compile(rb"[ \t\r\n]{0,1024}\{[ \t\r\n]{0,1024}\"images\"")


async def interpolate(request: EndpointRequest, query: InterpolateQuery) -> Response:
    """Images between two, with both ends: the means of p(x|z) for z on the way between their latents.

    Image files, and arrays of uint8, are encoded at their posterior means. Latents are JSON, or arrays of floats.
    """
    model = request.model()
    ends = await _read_ends(request, model, query)
    if len(ends) != 2:
        raise UnprocessableContent(f"expected {_EXPECTED}, got {len(ends)}")
    request.reserve(model, Operation.DECODE, query.steps, part="steps", size=model.size_of(ends))
    request.services.engine.check_capacity(query.steps)
    way = spherical if query.mode == "slerp" else linear
    latents = await request.run_codec(query.steps * ends[0].nbytes, way, *ends, query.steps)
    pixels = await model.decode(latents, request.context)
    return await responses.images(request, pixels, query.columns or query.steps, quality=query.quality)


def linear(first: np.ndarray, second: np.ndarray, steps: int) -> np.ndarray:
    """Return so many points of the straight line between two latents, float32 [steps, *latent], with both ends."""
    return _weighted(first, second, 1 - _fractions(steps), _fractions(steps))


def spherical(first: np.ndarray, second: np.ndarray, steps: int) -> np.ndarray:
    """Return points of the great circle between two latents, as `linear`; of a line where their angle is 0 or pi."""
    a, b = first.astype(np.float64).ravel(), second.astype(np.float64).ravel()
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    angle = float(np.arccos(np.clip(a @ b / norms, -1, 1))) if norms else 0.0
    if np.sin(angle) < _LEAST_SINE:
        return linear(first, second, steps)
    fractions = _fractions(steps)
    return _weighted(first, second, *(np.sin(part * angle) / np.sin(angle) for part in (1 - fractions, fractions)))


def _fractions(steps: int) -> np.ndarray:
    return np.linspace(0, 1, steps)


def _weighted(first: np.ndarray, second: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the sum of two latents with weights, [steps] each; the ends are the latents themselves."""
    weighted: np.ndarray = np.multiply.outer(np.float32(a), first)
    weighted += np.multiply.outer(np.float32(b), second)
    weighted[0], weighted[-1] = first, second
    return weighted


async def _read_ends(request: EndpointRequest, model: LoadedModel, query: InterpolateQuery) -> np.ndarray:
    """Return the latents of both ends, float32 [N, *latent]."""
    body = await read_body(request, _EXPECTED)
    if _holds_latents(request.context.headers.get(b"content-type", b"").decode("latin-1"), body):
        return await read_latents(request, model, scaled=query.scaled, body=body)
    pixels = await read_images(request, model, query, Operation.ENCODE, body=body)
    if len(pixels) != 2:
        raise UnprocessableContent(f"expected {_EXPECTED}, got {len(pixels)}")
    return (await model.encode(pixels, request.context))[0]


def _holds_latents(content_type: str, body: bytes) -> bool:
    kind = kind_of(content_type, body)
    if kind == NPY:
        return read_header(body).type_name != "uint8"
    return kind == JSON and not _IMAGES.match(body)
