"""Endpoints of the diffusers dialect: decode and encode."""

import numpy as np

from app.api.endpoint import Endpoint, EndpointRequest, Response
from app.api.latents import ExpectedLatents
from app.api.query import ImagesQuery
from app.api.remote_vae import images
from app.api.remote_vae.documentation import DECODE, ENCODE
from app.api.remote_vae.latents import claimed_latents
from app.api.remote_vae.queries import DecodeQuery, EncodeQuery
from app.api.request_bodies import ImageReader, read_body, read_images
from app.codecs.tensors import TensorType, tensor_type, write_tensor
from app.context import Operation
from app.errors import NotFound, UnprocessableContent, UnsupportedByModel
from app.inference.loaded_model import LoadedModel
from app.validation import quoted

MODEL = "model"
"""The parameter of a path that names the model."""


async def diffusers_decode(request: EndpointRequest, query: DecodeQuery) -> Response:
    """Decode latents for `remote_decode` of diffusers.

    The body is a raw tensor [N, C, h, w], or packed latents [N, n, 4 * C] with `height` and `width`. Without scaling
    parameters the latents are those of the autoencoder itself.
    """
    model = _named_model(request)
    if query.output_type == "mp4":
        raise UnsupportedByModel(
            f"output_type: {model.identity} decodes images, no videos; expected pil or pt, got mp4"
        )
    form = images.form_of(query, request.context.headers.get(b"accept", b""))
    limits = request.services.limits
    claimed = claimed_latents(query, ExpectedLatents(model.spec, limits.max_items, limits.max_image_pixels))
    body = await read_body(request, f"{claimed.kind.size} bytes of a tensor")
    size = claimed.image_size(model.spec.sizes)
    more = images.RGB * size[0] * size[1] * form.memory(query.dtype)
    request.reserve(model, Operation.DECODE, claimed.count, part="latents", size=size, more=more)
    latents = await request.run_codec(len(body), claimed.read, body)
    pixels = await model.decode(latents, request.context, as_floats=form.is_float)
    return await images.respond(request, pixels, form, query.dtype)


async def diffusers_encode(request: EndpointRequest, query: EncodeQuery) -> Response:
    """Encode images for `remote_encode` of diffusers: the means of the posteriors, scaled.

    With `shape` and `dtype` the body is a raw tensor of floats in [-1, 1] or of uint8, otherwise an image file. Latents
    of float16 and bfloat16 images have the same data type, others float32.
    """
    model = _named_model(request)
    if query.shape is not None and query.dtype is not None:
        pixels = await _read_tensor(request, model, tensor_type(query.dtype, query.shape))
    elif query.shape is None and query.dtype is None:
        pixels = await read_images(request, model, ImagesQuery(), Operation.ENCODE)
    else:
        raise UnprocessableContent("shape, dtype: expected both for a tensor, or none for an image file, got one")
    mean, *_ = await model.encode(pixels, request.context)
    dtype = images.float_type(query.dtype)
    body = await request.run_codec(mean.nbytes, _write_scaled, mean, query, model, dtype)
    return images.tensor_response(body, TensorType(dtype, mean.shape))


async def _read_tensor(request: EndpointRequest, model: LoadedModel, kind: TensorType) -> np.ndarray:
    header = images.header_of(kind)
    body = await read_body(request, f"{kind.size} bytes of a tensor")
    reader = ImageReader(request, model, ImagesQuery(), Operation.ENCODE, 0)
    expired = request.context.expired
    return await reader.read_array(header, len(body), lambda _: images.read_pixels(body, kind, expired))


def _write_scaled(mean: np.ndarray, query: EncodeQuery, model: LoadedModel, dtype: str) -> bytes:
    return write_tensor(query.scaling(model.spec.scaling).scaled(mean), dtype)


def _named_model(request: EndpointRequest) -> LoadedModel:
    """Return the served model; raises `NotFound` if the path names another one."""
    model = request.model()
    name = request.path_parameters.get(MODEL)
    if name not in (None, model.spec.name, model.identity):
        raise NotFound(f"no model {quoted(name)} is served; expected {quoted(model.spec.name)}, or no name in the path")
    return model


def _endpoints() -> tuple[Endpoint, ...]:
    declared = (("decode", diffusers_decode, DecodeQuery, DECODE), ("encode", diffusers_encode, EncodeQuery, ENCODE))
    return tuple(
        Endpoint(
            path, handler, "POST", query, (), {**documentation, **options}, uses_queue=True, label=f"/diffusers/{name}"
        )
        for name, handler, query, documentation in declared
        for path, options in (
            (f"/diffusers/{name}", {}),
            (f"/diffusers/{{{MODEL}:path}}/{name}", {"include_in_schema": False}),
        )
    )


ENDPOINTS = _endpoints()
