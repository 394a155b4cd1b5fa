"""What a caller sends: four content types, told by their header, become one array."""

import asyncio
import base64
import binascii
import re
import time
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, TypeVar

import numpy as np
from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from app.calls import Call
from app.errors import DeadlineExceeded, Malformed, TooLarge, UnsupportedMedia, Unusable
from app.images import Fit, fit_array, load_images, open_images, read_npy
from app.parsing import parsed
from app.schemas import Images, LatentsIn
from app.settings import Settings

JSON, MULTIPART, NPY = "application/json", "multipart/form-data", "application/x-npy"
MAX_LATENT = 1e6
"""Far beyond any latent of a N(0, I) prior, and far below what float32 overflows at."""

MAX_PIXELS = 2**28
"""Pixels of all pictures in one request: what takes a second or two to decode, and ten times that at the worst."""

ROOM = 16
"""Values and names in the JSON of latents besides the latents themselves: their shape, the model's name."""

INLINE = 2**16
"""Bytes or pixels up to which the codec costs less than the way to another thread."""

EACH = 1000
"""Bytes or pixels that every picture counts for besides its own: what it takes to begin with one."""

_MEDIA = re.compile(r"[a-z]+/[a-z0-9.+-]{1,40}")

T = TypeVar("T")


async def codec(call: Call, size: int, work: Callable[..., T], *arguments: Any) -> T:
    """Do codec work, away from the event loop where it is large, and count its time; raises `DeadlineExceeded`."""
    start = time.monotonic()
    try:
        if size <= INLINE:
            return work(*arguments)
        async with asyncio.timeout(call.deadline - start):
            return await asyncio.to_thread(work, *arguments)
    except TimeoutError:
        raise DeadlineExceeded("the images were not read or written within the request's deadline") from None
    finally:
        call.spend("codec", start, time.monotonic())


async def read_pixels(request: Request, call: Call, shape: Sequence[int], fit: Fit, settings: Settings) -> np.ndarray:
    """The images of a request as pixels uint8 [N, C, H, W] of the model's shape."""
    kind = _content_type(request)
    if kind == NPY:
        array = _image_array(read_npy(await _body(request)), settings)
        each = 0 if array.shape[1:3] == tuple(shape[1:]) else EACH
        return await codec(call, array.size + each * len(array), fit_array, array, shape, fit)
    if kind == MULTIPART:
        files = await _parts(request, settings)
    elif kind == JSON:
        body = await _body(request)
        files = await codec(call, len(body), _from_base64, body, settings)
    elif kind.startswith("image/"):
        files = [await _body(request)]
    else:
        raise _unsupported(f"image/*, {MULTIPART}, {JSON} or {NPY}", kind)
    _require_items(len(files), settings)
    return await _decoded(files, call, shape, fit, settings.max_image_pixels)


async def read_latents(request: Request, call: Call, shape: Sequence[int], settings: Settings) -> np.ndarray:
    """The latents of a request, float32 [N, *latent]."""
    kind = _content_type(request)
    body = await _body(request)
    if kind == JSON:
        return await codec(call, len(body), _latents_of_json, body, shape, settings)
    if kind == NPY:
        return await codec(call, len(body), _latents_of_npy, body, shape, settings)
    raise _unsupported(f"{JSON} or {NPY}", kind)


def _unsupported(expected: str, kind: str) -> UnsupportedMedia:
    came = kind if _MEDIA.fullmatch(kind) else "another" if kind else "none"
    return UnsupportedMedia(f"expected {expected} as the content type, got {came}")


async def _body(request: Request) -> bytes:
    body = await request.body()
    if not body:
        raise Malformed("the body is empty")
    return body


def _content_type(request: Request) -> str:
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMedia("expected a body without a content encoding, got one")
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _parts(request: Request, settings: Settings) -> list[bytes]:
    boundary = parse_options_header(request.headers["content-type"])[1].get(b"boundary", b"")
    if b"--" + boundary + b"--" not in await _body(request):
        raise Malformed(f"the body is not {MULTIPART} that can be read: its closing boundary is missing")
    try:
        async with request.form(max_files=settings.max_items, max_fields=settings.max_items) as form:
            files = [await _file(name, part) for name, part in form.multi_items()]
    except HTTPException as error:
        wrong = TooLarge if error.detail.startswith("Too many") else Malformed
        raise wrong(f"the body is not {MULTIPART} that can be read: {error.detail}") from None
    except ValueError:
        raise Malformed(f"the body is not {MULTIPART} that can be read: its charset is unknown") from None
    if not files:
        raise Malformed("the body has no parts; expected parts named images, each a file")
    return files


async def _file(name: str, part: UploadFile | str) -> bytes:
    if name != "images" or not isinstance(part, UploadFile):
        came = "one of another name" if name != "images" else "one that is no file"
        raise Unusable(f"expected every part to be a file named images, got {came}")
    return await part.read()


def _from_base64(body: bytes, settings: Settings) -> list[bytes]:
    files = []
    most = 2 * settings.max_items  # a `data:` URL has a comma of its own
    for index, text in enumerate(parsed(Images, body, values=most, names=most).images):
        data = text.partition(",")[2] if text.startswith("data:") else text
        try:
            files.append(base64.b64decode(data, validate=True))
        except (binascii.Error, ValueError):
            raise Unusable(f"images[{index}]: not base64") from None
    return files


async def _decoded(files: list[bytes], call: Call, shape: Sequence[int], fit: Fit, max_pixels: int) -> np.ndarray:
    size = sum(map(len, files)) + EACH * len(files)
    images = await codec(call, size, open_images, files, shape, max_pixels)
    pixels = sum(image.width * image.height for image in images if not isinstance(image, np.ndarray))
    if pixels > (most := max(MAX_PIXELS, max_pixels)):
        raise TooLarge(f"{len(images)} images of {pixels} pixels together are more than the {most} allowed")
    return await codec(call, size + pixels, load_images, images, shape, fit)


def _image_array(array: np.ndarray, settings: Settings) -> np.ndarray:
    channels = array.shape[3] if array.ndim == 4 else 1
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or channels not in (1, 3) or 0 in array.shape:
        came = f"{array.dtype.name} {list(array.shape)}"
        raise Unusable(
            f"expected a uint8 array [N, H, W] or [N, H, W, C] with N of at least 1, C of 1 or 3, got {came}"
        )
    _require_items(len(array), settings)
    if array.shape[1] * array.shape[2] > settings.max_image_pixels:
        raise TooLarge(
            f"images of {array.shape[2]} x {array.shape[1]}: more than the {settings.max_image_pixels} pixels allowed"
        )
    return array


def _latents_of_json(body: bytes, shape: Sequence[int], settings: Settings) -> np.ndarray:
    most = 3 * settings.max_items  # of an answer of /encode: means and logvars of all items, and as many draws
    values = parsed(LatentsIn, body, values=most * (prod(shape) + 1) + ROOM, names=most + ROOM).values()
    _require_items(len(values), settings)
    rows = [_latent(value, index, shape) for index, value in enumerate(values)]
    return _within_range(np.stack(rows))


def _latents_of_npy(body: bytes, shape: Sequence[int], settings: Settings) -> np.ndarray:
    array = read_npy(body)
    if array.ndim == len(shape) + 2 and len(array):
        array = array[0]
    if array.dtype not in (np.float32, np.float64) or array.shape[1:] != tuple(shape) or not len(array):
        wanted = ", ".join(["N", *map(str, shape)])
        raise Unusable(f"expected a float32 array [{wanted}], got {array.dtype.name} {list(array.shape)}")
    _require_items(len(array), settings)
    return _within_range(array)


def _latent(value: Any, index: int, shape: Sequence[int]) -> np.ndarray:
    try:
        row = np.array(value, np.float64)
    except ValueError:
        raise Unusable(f"latents[{index}]: expected lists of equal length") from None
    if row.shape != tuple(shape):
        wanted, came = (" x ".join(map(str, dimensions)) for dimensions in (shape, row.shape))
        raise Unusable(f"latents[{index}]: expected {wanted} numbers, got {came}")
    return row


def _within_range(latents: np.ndarray) -> np.ndarray:
    usable = np.abs(latents) <= MAX_LATENT
    if not usable.all():
        index = int(np.argwhere(~usable)[0, 0])
        raise Unusable(f"latents[{index}]: expected finite numbers between {-MAX_LATENT:.0f} and {MAX_LATENT:.0f}")
    return np.ascontiguousarray(latents, np.float32)


def _require_items(count: int, settings: Settings) -> None:
    if count > settings.max_items:
        raise TooLarge(f"{count} items are more than the {settings.max_items} allowed in one request")
