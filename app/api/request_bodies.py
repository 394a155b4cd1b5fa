"""Request bodies: images and latents in any of their formats become one array."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from starlette.requests import ClientDisconnect

from app.api.endpoint import MAX_INLINE_BYTES, EndpointRequest
from app.api.latents import ExpectedLatents, check_header, latents_of_json, latents_of_npy
from app.api.query import ImagesQuery
from app.api.schemas import Images
from app.codecs.base64_text import decode_base64
from app.codecs.compression import DECODED, decompress
from app.codecs.images import (
    FORMAT_NAMES,
    MAX_SIDE,
    EncodedImage,
    decode_images,
    fit_array,
    open_image,
    probe_images,
    table_cost,
    upright_size,
)
from app.codecs.media_types import IMAGE, JSON, MULTIPART, NPY, image_format, is_heic, is_image, kind_of
from app.codecs.multipart import Part, boundary_of, read_parts
from app.codecs.npy import Header, read_array, read_header
from app.codecs.png import read_png
from app.codecs.png_reader import SIGNATURE, Png
from app.codecs.threads import LARGE, divide_into_jobs
from app.context import Operation
from app.errors import BadRequest, ContentTooLarge, ServiceError, UnprocessableContent, UnsupportedMediaType
from app.http.budget import body_too_large
from app.inference.image_sizes import resampling_of, size_of_request
from app.inference.loaded_model import LoadedModel
from app.settings import Limits
from app.validation import parse_json, quoted, require_items

PER_IMAGE_COST = 1000
"""Bytes or pixels that each image counts for besides its own, for the set-up of its decoder."""

SMALL_PARTS_COST = 4
"""How many times as long the bytes of multipart take if its parts are as small as possible."""

MAX_INLINE_JOIN = 2**20
"""Bytes of a body up to which its pieces are joined on the event loop."""

MAX_PARAMETERS_BYTES = 2**16
"""Bytes of a body that has parameters alone, which is parsed on the event loop. Valid ones have some 100."""

JSON_OVERHEAD = 12
"""Bytes of memory for each byte of parsed JSON at most: `0.5,` takes 16 in the parser, 8 in a list, 24 as an object."""

_USUAL_EXPANSION, _USUAL_BYTES = 16, 2**15
"""Bytes of a decompressed body: most have at most so many for each byte, besides some for small ones."""

FORM = b"application/x-www-form-urlencoded"
"""The Content-Type of `curl -d` unless another one is given."""

_MAX_LINE = 2**16
"""Bytes of a body that are searched for a line end. Image files and arrays have one in the first few hundred."""

_IMAGE_BODIES, _LATENT_BODIES = f"{FORMAT_NAMES}, {MULTIPART}, {JSON} or .npy", f"{JSON} or .npy"

_BODY_ERRORS = (BadRequest, UnprocessableContent, UnsupportedMediaType)

_PIXEL_TYPES = ("uint8", "float16", "bfloat16", "float32", "float64")

_PART_NAMES = ("images", "image", "files", "file")
"""Names of the fields that forms have for files, with or without brackets."""

MAX_CONTENT_TYPE_LENGTH = 1024
"""Characters of a Content-Type that are parsed. The longest that clients send has some 150."""


async def read_images(
    request: EndpointRequest,
    model: LoadedModel,
    query: ImagesQuery,
    operation: Operation,
    draws: int = 0,
    body: bytes | None = None,
) -> np.ndarray:
    """Read the images of a request as pixels, uint8 [N, C, H, W] of the model's shape, or of one size that it takes.

    The memory of the operation with so many draws is reserved before the images are decoded. `body` is the body if it
    was read before.
    """
    if body is None:
        body = await read_body(request, _IMAGE_BODIES)
    if not body.startswith(SIGNATURE):
        try:
            return await ImageReader(request, model, query, operation, draws).read_other(body)
        except _BODY_ERRORS as error:
            raise _with_curl_hint(error, request, body) from None
    if model.has_many_sizes or query.height is not None or query.width is not None:
        return await ImageReader(request, model, query, operation, draws).read_files([body])
    request.reserve(model, operation, 1, draws)
    _, height, width = shape = model.image_shape
    if len(body) <= MAX_INLINE_BYTES and height * width <= request.services.limits.max_image_pixels:
        pixels = await request.run_codec(max(len(body), height * width), read_png, body, shape)
        if pixels is not None:
            return pixels[None]
    return await ImageReader(request, model, query, operation, draws).decode([body], shape)


async def read_latents(
    request: EndpointRequest, model: LoadedModel, *, scaled: bool | None = None, body: bytes | None = None
) -> np.ndarray:
    """Read the latents of a request, float32 [N, *latent_shape]; with `scaled` in the units of the diffusion model.

    The memory that parsed JSON takes is reserved before it is parsed. `body` is the body if it was read before.
    """
    if body is None:
        body = await read_body(request, _LATENT_BODIES)
    try:
        return await _read_latents(request, model, body, scaled)
    except _BODY_ERRORS as error:
        raise _with_curl_hint(error, request, body) from None


async def _read_latents(request: EndpointRequest, model: LoadedModel, body: bytes, scaled: bool | None) -> np.ndarray:
    context, limits = request.context, request.services.limits
    expected = ExpectedLatents(model.spec, limits.max_items, limits.max_image_pixels, scaled)
    content_type = context.headers.get(b"content-type", b"").decode("latin-1")
    kind = kind_of(content_type, body)
    if kind == JSON:
        request.services.budget.reserve(context, min(JSON_OVERHEAD * len(body), limits.max_memory_bytes))
        return await request.run_codec(len(body), latents_of_json, body, expected)
    if kind == NPY:
        header = read_header(body)
        check_header(header, expected)
        return await request.run_codec(len(body), latents_of_npy, body, header, expected)
    raise unsupported(_LATENT_BODIES, content_type, body)


class ImageReader:
    """Reads the images of one request: of any format, for an operation with so many draws."""

    def __init__(
        self, request: EndpointRequest, model: LoadedModel, query: ImagesQuery, operation: Operation, draws: int
    ) -> None:
        self._request, self._model, self._query = request, model, query
        self._operation, self._draws = operation, draws
        self._max_pixels = request.services.limits.max_image_pixels
        self._resampling = resampling_of(model.spec.sizes)

    async def read_other(self, body: bytes) -> np.ndarray:
        """Read the images of a body that is not one PNG file."""
        content_type = self._request.context.headers.get(b"content-type", b"").decode("latin-1")
        kind = kind_of(content_type, body)
        if kind == NPY:
            return await self.read_array(read_header(body), len(body), partial(read_array, body))
        files = await _files(kind, content_type, body, self._request)
        del body  # the files are copies of its pieces
        return await self.read_files(files)

    async def read_array(self, header: Header, size: int, read: Callable[[Header], np.ndarray]) -> np.ndarray:
        """Fit the images of an array of `size` bytes to the model; `read` returns it in the shape of a header."""
        header = _checked_images(header, self._request.services.limits)
        count, height, width = header.shape[:3]
        shape = self._reserve(count, (height, width))
        per_image = 0 if (height, width) == shape[1:] else PER_IMAGE_COST
        fit, expired = self._query.fit, self._request.context.expired
        work = partial(fit_array, shape=shape, fit=fit, expired=expired, resampling=self._resampling)
        return await self._request.run_codec(size + per_image * count, lambda: work(read(header)))

    async def read_files(self, files: list[bytes]) -> np.ndarray:
        """Read image files; of a model of many sizes the first one decides on the size of all."""
        own = self._model.image_shape[1:]
        if self._model.has_many_sizes and None in (self._query.height, self._query.width):
            cost = len(files[0]) + table_cost(files[:1])
            first = await self._request.run_codec(cost, open_image, files[0], 0, self._max_pixels)
            own = upright_size(first)
        return await self.decode(files, self._reserve(len(files), own))

    async def decode(self, files: list[bytes], shape: tuple[int, int, int]) -> np.ndarray:
        """Decode image files, and fit them to the shape."""
        context, run = self._request.context, self._request.run_codec
        per_image = max(PER_IMAGE_COST, shape[1] * shape[2] // 4)  # plain PNG files are decoded in the first step
        costs = [len(file) + per_image for file in files]
        images = await run(
            sum(costs) + table_cost(files), probe_images, files, shape, self._max_pixels, context.expired
        )
        self._require_one_size(images, shape)
        costs = [
            cost + (0 if isinstance(image, np.ndarray) else image.cost)
            for cost, image in zip(costs, images, strict=True)
        ]
        work = partial(decode_images, resampling=self._resampling)
        if sum(costs) < LARGE:
            return await run(sum(costs), work, images, shape, self._query.fit, context.expired)
        decoded = [
            await run(sum(costs[job]), work, images[job], shape, self._query.fit, context.expired, job.start)
            for job in divide_into_jobs(costs)
        ]
        return decoded[0] if len(decoded) == 1 else np.concatenate(decoded)

    def _reserve(self, count: int, own: tuple[int, int]) -> tuple[int, int, int]:
        """Return the shape of images of their `own` size when they are fitted, and reserve memory for so many."""
        requested = (self._query.height, self._query.width)
        size = size_of_request(self._model.spec.sizes, requested, own, self._max_pixels)
        self._request.reserve(self._model, self._operation, count, self._draws, size=size)
        return (self._model.image_shape[0], *size)

    def _require_one_size(self, images: Sequence[Png | EncodedImage | np.ndarray], shape: Sequence[int]) -> None:
        """Refuse images of several sizes where the request asks for none; a model of one size fits all to it."""
        requested, rule = (self._query.height, self._query.width), self._model.spec.sizes
        if not self._model.has_many_sizes or None not in requested:
            return
        for index, image in enumerate(images):
            sent, first = upright_size(image), upright_size(images[0])
            size = size_of_request(rule, requested, sent, self._max_pixels)
            if size != tuple(shape[1:]):
                raise UnprocessableContent(
                    f"images[{index}]: expected {shape[2]} x {shape[1]} pixels as images[0] of {first[1]} x {first[0]} "
                    f"is fitted to, got {sent[1]} x {sent[0]}, fitted to {size[1]} x {size[0]}; send one size in a "
                    "request, or ask for one by height and width"
                )


async def _files(kind: str, content_type: str, body: bytes, request: EndpointRequest) -> list[bytes]:
    max_items = request.services.limits.max_items
    if kind == IMAGE:
        return [body]
    if kind == MULTIPART:
        boundary = boundary_of(content_type)
        return await request.run_codec(SMALL_PARTS_COST * len(body), _files_of_parts, body, boundary, max_items)
    if kind == JSON:
        texts = await request.run_codec(len(body), _texts_of_json, body, max_items)
        return await request.run_codec(len(body) + PER_IMAGE_COST * len(texts), _files_of_texts, texts)
    raise unsupported(_IMAGE_BODIES, content_type, body)


def _content_coding(headers: Mapping[bytes, bytes]) -> str:
    """Return the content coding of a body, or ""; refuses one that is not read, and a long Content-Type."""
    coding = headers.get(b"content-encoding", b"").decode("latin-1").strip().lower()
    if coding not in ("", "identity", *DECODED):
        raise UnsupportedMediaType(
            f"expected a body without a content encoding, or in {', '.join(DECODED)}, got {quoted(coding)}",
            headers={"Accept-Encoding": ", ".join(DECODED)},
        )
    if (length := len(headers.get(b"content-type", b""))) > MAX_CONTENT_TYPE_LENGTH:
        raise UnsupportedMediaType(
            f"expected a Content-Type of at most {MAX_CONTENT_TYPE_LENGTH} characters, got {length}"
        )
    return coding.removeprefix("identity")


async def _decompressed(request: EndpointRequest, body: bytes, coding: str, max_bytes: int) -> bytes:
    """Decompress a body within its limit and that of every body; its bytes count among those of all bodies.

    A first try ends where most bodies do, so that small bodies take little of the room of all.
    """
    services, most = request.services, min(request.services.limits.max_body_bytes, max_bytes)
    for limit in (min(most, _USUAL_EXPANSION * len(body) + _USUAL_BYTES), most):
        services.budget.count_decompressed(request.context, limit)
        try:
            content = await request.run_codec(limit, decompress, body, coding, limit)
        except ContentTooLarge:
            if limit == most:
                raise
        else:
            break
    services.budget.count_decompressed(request.context, len(content))
    return content


def _with_curl_hint(error: ServiceError, request: EndpointRequest, body: bytes) -> ServiceError:
    """Add to an error how curl sends a file, if the content type is the one of `curl -d` and the body is no JSON.

    The option -d removes line ends from a file, so a body with a line end was not sent by it.
    """
    declared = request.context.headers.get(b"content-type", b"").strip().lower()
    if not declared.startswith(FORM) or body.find(b"\n", 0, _MAX_LINE) >= 0 or kind_of("", body) == JSON:
        return error
    hint = "curl changes a file that it sends with -d; use --data-binary @FILE"
    return type(error)(f"{error.detail}; {hint}", headers=error.headers)


def unsupported(expected: str, content_type: str, body: bytes) -> UnsupportedMediaType:
    """Return the error for a body of another kind than `expected`: it names the content type, or the image format."""
    if is_image(body):
        return UnsupportedMediaType(f"expected {expected}, got an image ({image_format(body)})")
    if is_heic(body):
        return UnsupportedMediaType(f"expected {expected}, got HEIC, which is not read")
    got = f"the Content-Type {quoted(content_type)}" if content_type else "no Content-Type"
    return UnsupportedMediaType(f"expected {expected}; got {got} and a body that begins like none of these")


async def read_body(request: EndpointRequest, expected: str, max_bytes: int = sys.maxsize) -> bytes:
    """Read the body of a request, `expected` for its error; raises `ClientDisconnect` if the client disconnects.

    Raises `BadRequest` for an empty body, unless nothing is `expected`, and `ContentTooLarge` for a body of more than
    `max_bytes`, also when it is decompressed.
    """
    headers, coding = request.context.headers, ""
    if b"content-encoding" in headers or len(headers.get(b"content-type", b"")) > MAX_CONTENT_TYPE_LENGTH:
        coding = _content_coding(headers)
    pieces, size, more = [], 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(piece := message.get("body", b""))
        size += len(piece)
        if size > max_bytes:
            raise body_too_large(max_bytes)
        more = message.get("more_body", False)
    body = await request.run_codec(size, b"".join, pieces) if size > MAX_INLINE_JOIN else b"".join(pieces)
    if coding and body:
        body = await _decompressed(request, body, coding, max_bytes)
    if not body and expected:
        raise BadRequest(f"the body is empty; expected {expected}")
    return body


def _files_of_parts(body: bytes, boundary: bytes, max_items: int) -> list[bytes]:
    parts = read_parts(body, boundary, max_items)
    if not parts:
        raise BadRequest("the body has no parts; expected parts named images, each a file")
    return [_file(part, number) for number, part in enumerate(parts, 1)]


def _file(part: Part, number: int) -> bytes:
    if part.name.removesuffix("[]") not in _PART_NAMES:
        hint = "" if part.is_file else "; a parameter goes into the query, as ?NAME=VALUE"
        raise UnprocessableContent(
            f"part {number}: unknown name {quoted(part.name)}; expected every part to be named images, image, files or "
            f"file{hint}"
        )
    if not (part.is_file or is_image(part.content)):
        raise UnprocessableContent(f"part {number}: expected a file, got text; curl -F sends a file as images=@a.png")
    return part.content


def _texts_of_json(body: bytes, max_items: int) -> list[str]:
    limit = 2 * max_items  # a `data:` URL has a comma of its own
    texts = parse_json(Images, body, max_values=limit, max_names=limit, max_arrays=limit).images
    require_items(len(texts), max_items)
    return texts


def _files_of_texts(texts: list[str]) -> list[bytes]:
    return [decode_base64(text, index) for index, text in enumerate(texts)]


def _checked_images(header: Header, limits: Limits) -> Header:
    """Return the header of an array of images, that of a single one [H, W] as [1, H, W].

    Raises `UnprocessableContent` for another type or shape, `ContentTooLarge` for too many images or too large ones.
    """
    shape = (1, *header.shape) if len(header.shape) == 2 else header.shape
    channels = shape[3] if len(shape) == 4 else 1
    if header.type_name not in _PIXEL_TYPES or len(shape) not in (3, 4) or channels not in (1, 3) or 0 in shape:
        raise UnprocessableContent(
            "expected an array of uint8, or of floats in [0, 1], [H, W], [N, H, W] or [N, H, W, C] with N of at least "
            f"1, C of 1 or 3, got {header}"
        )
    require_items(shape[0], limits.max_items)
    if max(shape[1:3]) > MAX_SIDE:
        raise ContentTooLarge(f"images of {shape[2]} x {shape[1]}: a side of more than {MAX_SIDE} pixels")
    if shape[1] * shape[2] > (limit := limits.max_image_pixels):
        raise ContentTooLarge(f"images of {shape[2]} x {shape[1]}: more than the {limit} pixels allowed")
    return header._replace(shape=shape)
