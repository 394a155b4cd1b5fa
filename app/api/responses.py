"""Responses: latents, images, scores and the model in the negotiated media type."""

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import orjson

from app.api import capabilities
from app.api.endpoint import MAX_MESSAGE_BYTES, EndpointRequest, Response
from app.codecs.base64_text import encode_floats
from app.codecs.error_map import DEVIATIONS_SHOWN, color_map
from app.codecs.grid import bands
from app.codecs.images import write_npy
from app.codecs.json_bytes import dump
from app.codecs.lossy import DEFAULT_QUALITY, write_lossy
from app.codecs.media_types import JPEG, JSON, NPY, PNG, WEBP
from app.codecs.png import write_png, write_png_bands
from app.context import RequestContext
from app.errors import DeadlineExceeded
from app.inference.device import TorchDevice
from app.inference.loaded_model import LoadedModel
from app.inference.noise import Noise
from model.interface import LatentScaling, ModelSpec

IMAGES, NUMBERS = (PNG, JSON, NPY, JPEG, WEBP), (JSON, NPY)

MAX_NUMBERS_AT_ONCE = 2**16
"""Numbers that orjson writes in one step. It holds the interpreter's lock, and so other threads wait for it."""

_ERRORS = "the error of the reconstruction: the model defines no density of images"

T = TypeVar("T")
Headers = Sequence[tuple[bytes, bytes]]


async def images(
    request: EndpointRequest,
    pixels: np.ndarray,
    columns: int | None,
    noise: Noise | None = None,
    quality: int = DEFAULT_QUALITY,
) -> Response:
    """Respond with pixels [N, C, H, W]: a grid, base64 PNG files in JSON, or an array [N, H, W, C].

    `quality` is that of a grid as JPEG or WebP.
    """
    context, media_type = request.context, request.media_type
    body = await request.run_codec(pixels.size, write_images, context, media_type, pixels, columns, quality)
    return Response(media_type, body, _seed_header(noise))


async def error_maps(
    request: EndpointRequest,
    deviations: np.ndarray,
    spec: ModelSpec,
    columns: int | None,
    noise: Noise | None = None,
    quality: int = DEFAULT_QUALITY,
) -> Response:
    """Respond with deviations [N, C, H, W] in colours as `images` does, or as an array float32 [N, H, W, C]."""
    if request.media_type == NPY:
        body = await request.run_codec(deviations.nbytes, _deviations_npy, deviations)
        return Response(NPY, body, _seed_header(noise))
    top = DEVIATIONS_SHOWN if spec.likelihood is not None and spec.family.has_scale else 1.0
    pixels = await request.run_codec(deviations.nbytes, color_map, deviations, top, request.context.expired)
    return await images(request, pixels, columns, noise, quality)


async def latents(
    request: EndpointRequest,
    rows: Sequence[np.ndarray],
    model: LoadedModel,
    noise: Noise | None = None,
    *,
    scaled: bool = False,
    as_base64: bool = False,
) -> Response:
    """Respond with mean, logvar and draws, all [N, *latent_shape]: JSON, or one array [2 + L, N, *latent_shape].

    Of a deterministic encoder there is the mean alone. With `scaled` they are converted to the units of the diffusion
    model. `as_base64` writes each latent in JSON as little-endian float32 in base64.
    """
    context, cost, identity = request.context, len(rows) * rows[0].nbytes, model.identity
    if scaled:
        rows = await request.run_codec(cost, _scaled, rows, model.spec.scaling)
    if request.media_type == JSON:
        checked = partial(until_deadline, context)
        body = await request.run_codec(cost, latents_json, rows, identity, checked, scaled, as_base64)
    else:
        body = await request.run_codec(cost, _latents_npy, rows)
    return Response(request.media_type, body, _seed_header(noise) if noise else ())


def scores(columns: Mapping[str, np.ndarray], noise: Noise | None) -> Response:
    """Respond with the scores of each image, of which the fields are columns [N]."""
    return Response(JSON, scores_json(columns), _seed_header(noise))


def model(request: EndpointRequest) -> Response:
    """Respond with a description of the served model."""
    engine = request.services.engine
    served = engine.loaded_model
    request.context.model = served.identity
    return Response(JSON, dump(describe_model(served, engine.device)))


def history(request: EndpointRequest) -> Response:
    """Respond with the training and evaluation record of the served model."""
    served = request.services.engine.loaded_model
    request.context.model = served.identity
    return Response(JSON, dump({"model": served.identity, "metrics": served.metrics.entries}))


def latents_json(
    rows: Sequence[np.ndarray],
    model: str,
    checked: Callable[[Iterable[int]], Iterable[int]] = iter,
    scaled: bool = False,
    as_base64: bool = False,
) -> bytes:
    """Write `schemas.Latents` from the arrays of mean, logvar and each draw, all [N, *latent_shape].

    Of a deterministic encoder there is the mean alone. If there are many numbers, `checked` wraps the iteration over
    the images; it may raise to end the work.
    """
    mean, *others = map(np.ascontiguousarray, rows)
    logvar, draws = (others[0], others[1:]) if others else ([None] * len(mean), [])
    about = {"shape": mean.shape[1:], "model": model, **({"scaled": True} if scaled else {})}
    if as_base64:
        return _joined_latents_json(mean, logvar, draws, {**about, "encoding": "base64"}, checked, _base64_json)
    if len(rows) * mean.size > MAX_NUMBERS_AT_ONCE:
        return _joined_latents_json(mean, logvar, draws, about, checked, dump)
    latents: list[dict[str, Any]] = [{"mean": m, "logvar": v} for m, v in zip(mean, logvar, strict=True)]
    if draws:
        latents = [{**latent, "z": z} for latent, *z in zip(latents, *draws, strict=True)]
    content = {"latents": latents, **about}
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def _base64_json(row: np.ndarray | None) -> bytes:
    return b"null" if row is None else b'"%b"' % encode_floats(row)


def _joined_latents_json(
    mean: np.ndarray,
    logvar: Sequence[np.ndarray | None] | np.ndarray,
    draws: Sequence[np.ndarray],
    about: dict[str, Any],
    checked: Callable[[Iterable[int]], Iterable[int]],
    write: Callable[[Any], bytes],
) -> bytes:
    """Write the latents one by one with `write`, and join them."""
    pieces: list[bytes] = []
    for index in checked(range(len(mean))):
        pieces += (b',{"mean":', write(mean[index]), b',"logvar":', write(logvar[index]))
        for number, draw in enumerate(draws):
            pieces += (b"," if number else b',"z":[', write(draw[index]))
        pieces.append(b"]}" if draws else b"}")
    pieces[0] = b'{"latents":[{"mean":'
    end = dump(about)
    return b"".join((*pieces, b"],", end[1:]))


def scores_json(columns: Mapping[str, np.ndarray]) -> bytes:
    """Write `schemas.Scores` from the fields of each score, [N] each."""
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return dump({"scores": [dict(zip(columns, row, strict=True)) for row in rows], "unit": "nats"})


def describe_model(served: LoadedModel, device: TorchDevice) -> dict[str, Any]:
    """Return the content of `schemas.Model`."""
    spec, reference = served.spec, served.reference
    percentile = f"; the percentile is an image's place among the {reference.source}" if reference else ""
    if served.typicality:
        percentile += f"; the typicality is an image's two-sided p-value among {served.typicality.described}"
    sizes, scaling = capabilities.describe_sizes(spec, served.sized), spec.scaling
    return {
        "model": spec.identity,
        "digest": spec.digest,
        "format": spec.format,
        "source": spec.source,
        "image_shape": spec.image_shape,
        **({"image_sizes": sizes} if sizes else {}),
        "latent_shape": spec.latent_shape,
        **({} if scaling.is_identity else {"scaling": capabilities.describe_scaling(scaling)}),
        "likelihood": spec.likelihood,
        "capabilities": capabilities.describe(spec, served.typicality),
        "parameters": spec.parameters,
        "device": str(device),
        "precision": device.target.for_model(spec).precision,
        "runtime": served.runtime,
        "batch_invariant": served.batch_invariant,
        "architecture": dict(spec.architecture),
        "scores": (spec.family.description if spec.has_elbo else _ERRORS) + percentile,
    }


def _seed_header(noise: Noise | None) -> Headers:
    return ((b"x-seed", b"%d" % noise.seed),) if noise else ()


def _scaled(rows: Sequence[np.ndarray], scaling: LatentScaling) -> list[np.ndarray]:
    """Convert mean, logvar and draws to the units of the diffusion model."""
    return [scaling.scaled_logvar(row) if index == 1 else scaling.scaled(row) for index, row in enumerate(rows)]


def _latents_npy(rows: Sequence[np.ndarray]) -> bytes:
    return write_npy(np.stack(rows))


def write_images(
    context: RequestContext, media_type: str, pixels: np.ndarray, columns: int | None, quality: int = DEFAULT_QUALITY
) -> bytes:
    """Write pixels [N, C, H, W] in a media type of `IMAGES`, until the deadline."""
    if media_type == NPY:
        return _images_npy(context, pixels)
    if media_type == JSON:
        return _images_json(context, pixels)
    if media_type != PNG:
        return write_lossy(media_type, np.concatenate([*bands(pixels, columns)[1]], axis=1), quality)
    if len(pixels) == 1:
        return write_png(pixels[0])
    shape, rows = bands(pixels, columns)
    return write_png_bands(shape, until_deadline(context, rows))


def _images_json(context: RequestContext, pixels: np.ndarray) -> bytes:
    texts = (base64.b64encode(write_png(image)) for image in until_deadline(context, pixels))
    separated = chain.from_iterable((b'","', text) for text in texts)
    next(separated)
    return b"".join((b'{"images":["', *separated, b'"]}'))


def _images_npy(context: RequestContext, pixels: np.ndarray) -> bytes:
    """Write pixels [N, H, W, C] as `write_npy` does, without a second copy of all of them."""
    count, channels, height, width = pixels.shape
    stream, at_once = io.BytesIO(), max(1, MAX_MESSAGE_BYTES // pixels[0].size)
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, height, width, channels)}
    np.lib.format.write_array_header_1_0(stream, header)
    for start in until_deadline(context, range(0, count, at_once)):
        stream.write(pixels[start : start + at_once].transpose(0, 2, 3, 1).tobytes())
    return stream.getvalue()


def _deviations_npy(deviations: np.ndarray) -> bytes:
    return write_npy(np.ascontiguousarray(deviations.transpose(0, 2, 3, 1)))


def until_deadline(context: RequestContext, items: Iterable[T]) -> Iterator[T]:
    """Yield the items; raises `DeadlineExceeded` before the next one once the deadline has passed."""
    for item in items:
        if context.expired():
            raise DeadlineExceeded("the response was not written within the request's deadline")
        yield item
