"""The body of a request, in any of its forms, becomes one array."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from fastapi import Request

from app.api.latents import check_header, latents_of_json, latents_of_npy
from app.api.schemas import Images
from app.codecs.base64_text import decode_base64
from app.codecs.images import KINDS, Fit, fit_array, load_images, open_images
from app.codecs.media_types import IMAGE, JSON, MULTIPART, NPY, is_image, kind_of
from app.codecs.multipart import Part, boundary_of, read_parts
from app.codecs.npy import Header, read_array, read_header
from app.context import RequestContext
from app.errors import BadRequest, ContentTooLarge, DeadlineExceeded, UnprocessableContent, UnsupportedMediaType
from app.settings import Limits
from app.validation import parsed, quoted, require_items

INLINE = 2**16
"""Bytes or pixels up to which the codec costs less than the way to another thread."""

EACH = 1000
"""Bytes or pixels that every picture counts for besides its own: what it takes to begin with one."""

SMALL_PARTS = 4
"""How many times as long as others a byte of multipart may take, where its parts are as small as can be."""

JOINED = 2**20
"""Bytes of a body up to which copying its pieces together takes less than the way to another thread."""

PARSED = 8
"""Bytes of memory that a byte of JSON takes at most once it is parsed: `0.5,` is an object of 24 bytes in a list."""

CONTENT_TYPE = 1024
"""Characters of a Content-Type that are read; the longest of a client has some 150."""

T = TypeVar("T")


async def codec(context: RequestContext, size: int, work: Callable[..., T], *arguments: Any) -> T:
    """Do codec work, away from the event loop where it is large, and count its time; raises `DeadlineExceeded`."""
    start = time.monotonic()
    try:
        if size <= INLINE:
            return work(*arguments)
        async with asyncio.timeout(context.deadline - start):
            return await asyncio.to_thread(work, *arguments)
    except TimeoutError:
        raise DeadlineExceeded("the images were not read or written within the request's deadline") from None
    except asyncio.CancelledError:
        context.deadline = start  # a thread that works for it stops after the image that it is at
        raise
    finally:
        context.record_stage("codec", start, time.monotonic())


async def read_pixels(
    request: Request,
    context: RequestContext,
    shape: Sequence[int],
    fit: Fit,
    limits: Limits,
    reserve: Callable[[int], None],
) -> np.ndarray:
    """The images of a request as pixels uint8 [N, C, H, W] of the model's shape.

    `reserve` is told their number before they are decoded, and may raise.
    """
    content_type = _content_type(request)
    body = await _body(request, context)
    kind = kind_of(content_type, body)
    if kind == NPY:
        header = read_header(body)
        _check_pictures(header, limits)
        reserve(header.shape[0])
        each = 0 if header.shape[1:3] == tuple(shape[1:]) else EACH
        return await codec(context, len(body) + each * header.shape[0], _pixels_of_npy, body, header, shape, fit)
    if kind == MULTIPART:
        boundary = boundary_of(content_type)
        files = await codec(context, SMALL_PARTS * len(body), _files_of_parts, body, boundary, limits.max_items)
    elif kind == JSON:
        texts = await codec(context, len(body), _texts_of_json, body, limits.max_items)
        files = await codec(context, len(body) + EACH * len(texts), _files_of_texts, texts)
    elif kind == IMAGE:
        files = [body]
    else:
        raise _unsupported(f"{KINDS}, {MULTIPART}, {JSON} or .npy", content_type)
    del body  # the files are copies of its pieces
    reserve(len(files))
    return await _decoded(files, context, shape, fit, limits.max_image_pixels)


async def read_latents(
    request: Request,
    context: RequestContext,
    shape: Sequence[int],
    model: str,
    limits: Limits,
    reserve: Callable[[int], None],
) -> np.ndarray:
    """The latents of a request, float32 [N, *latent], for the model of that name and digest.

    `reserve` is told the bytes of memory that the parsed JSON takes, before it is parsed, and may raise.
    """
    content_type = _content_type(request)
    body = await _body(request, context)
    kind = kind_of(content_type, body)
    if kind == JSON:
        reserve(min(PARSED * len(body), limits.max_memory_bytes))
        return await codec(context, len(body), latents_of_json, body, shape, model, limits.max_items)
    if kind == NPY:
        header = read_header(body)
        check_header(header, shape, limits.max_items)
        return await codec(context, len(body), latents_of_npy, body, header, shape)
    raise _unsupported(f"{JSON} or .npy", "an image" if kind == IMAGE else content_type)


def _content_type(request: Request) -> str:
    """The Content-Type, empty where there is none; refuses one that is too long, and a body that is compressed."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaType(f"expected a body without a content encoding, got {quoted(encoding)}")
    content_type = request.headers.get("content-type", "")
    if len(content_type) > CONTENT_TYPE:
        raise UnsupportedMediaType(
            f"expected a Content-Type of at most {CONTENT_TYPE} characters, got {len(content_type)}"
        )
    return content_type


def _unsupported(expected: str, content_type: str) -> UnsupportedMediaType:
    got = f"the Content-Type {quoted(content_type)}" if content_type else "no Content-Type"
    return UnsupportedMediaType(f"expected {expected}; got {got} and a body that begins like none of these")


async def _body(request: Request, context: RequestContext) -> bytes:
    pieces = [piece async for piece in request.stream()]
    size = sum(map(len, pieces))
    if not size:
        raise BadRequest("the body is empty")
    return b"".join(pieces) if size <= JOINED else await codec(context, size, b"".join, pieces)


def _files_of_parts(body: bytes, boundary: bytes, max_items: int) -> list[bytes]:
    parts = read_parts(body, boundary, max_items)
    if not parts:
        raise BadRequest("the body has no parts; expected parts named images, each a file")
    return [_file(part, number) for number, part in enumerate(parts, 1)]


def _file(part: Part, number: int) -> bytes:
    if part.name != "images":
        raise UnprocessableContent(
            f"part {number}: unknown name {quoted(part.name)}; expected every part to be named images"
        )
    if not (part.is_file or is_image(part.content)):
        raise UnprocessableContent(f"part {number}: expected a file, got text; curl -F sends a file as images=@a.png")
    return part.content


def _texts_of_json(body: bytes, max_items: int) -> list[str]:
    most = 2 * max_items  # a `data:` URL has a comma of its own
    texts = parsed(Images, body, values=most, names=most).images
    require_items(len(texts), max_items)
    return texts


def _files_of_texts(texts: list[str]) -> list[bytes]:
    return [decode_base64(text, index) for index, text in enumerate(texts)]


def _check_pictures(header: Header, limits: Limits) -> None:
    """Refuse an .npy body by its header.

    Raises `UnprocessableContent` for another type or shape, `ContentTooLarge` for too many images or too large ones.
    """
    shape = header.shape
    channels = shape[3] if len(shape) == 4 else 1
    if header.type_name != "uint8" or len(shape) not in (3, 4) or channels not in (1, 3) or 0 in shape:
        raise UnprocessableContent(
            f"expected a uint8 array [N, H, W] or [N, H, W, C] with N of at least 1, C of 1 or 3, got {header}"
        )
    require_items(shape[0], limits.max_items)
    if shape[1] * shape[2] > limits.max_image_pixels:
        most = limits.max_image_pixels
        raise ContentTooLarge(f"images of {shape[2]} x {shape[1]}: more than the {most} pixels allowed")


def _pixels_of_npy(body: bytes, header: Header, shape: Sequence[int], fit: Fit) -> np.ndarray:
    return fit_array(read_array(body, header), shape, fit)


async def _decoded(
    files: list[bytes], context: RequestContext, shape: Sequence[int], fit: Fit, max_pixels: int
) -> np.ndarray:
    each = max(EACH, shape[1] * shape[2] // 4)  # of which some are decoded as they are opened
    size = sum(map(len, files)) + each * len(files)
    images = await codec(context, size, open_images, files, shape, max_pixels)
    pixels = sum(image.width * image.height for image in images if not isinstance(image, np.ndarray))
    return await codec(context, size + pixels, load_images, images, shape, fit, context.expired)
