"""Images of the diffusers dialect: tensors in a request to encode, and the forms of a response to decode."""

import io
import json
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import partial

import numpy as np

from app.api.content_negotiation import negotiate
from app.api.endpoint import EndpointRequest, Response
from app.api.remote_vae.queries import DecodeQuery
from app.api.responses import until_deadline, write_images
from app.codecs.media_types import JPEG, PNG
from app.codecs.npy import Header
from app.codecs.tensors import DTYPES, INTEGERS, TensorType, read_tensor, write_tensor
from app.context import RequestContext
from app.errors import DeadlineExceeded, NotAcceptable, UnprocessableContent
from app.validation import quoted

TENSOR = "tensor/binary"

MAX_OVERSHOOT = 0.02
"""How far floats may be beyond [-1, 1], as resampled images are; they are limited to it."""

QUALITY = 95
"""Quality of JPEG files: decoded latents are a result, not an illustration."""

RGB = 3
"""Channels of images as the client makes them."""

BLOCK = 2**16
"""Values that are converted at once, so that there are no floats of a large image besides its tensor."""

FLOAT = np.dtype(np.float32).itemsize


class Form(StrEnum):
    """The form of decoded images: a file, or a tensor of floats in [-1, 1], floats in [0, 1], or grey levels."""

    PNG = PNG
    JPEG = JPEG
    SIGNED = "signed"
    UNIT = "unit"
    LEVELS = "levels"

    @property
    def is_float(self) -> bool:
        """Whether it is a tensor of floats, which have all digits that the decoder computes."""
        return self in (Form.SIGNED, Form.UNIT)

    def type_name(self, dtype: str) -> str:
        """Return the data type of the response to a tensor of a data type."""
        return float_type(dtype) if self.is_float else "uint8"

    def memory(self, dtype: str) -> int:
        """Return the bytes of each pixel value that the response takes while it is written."""
        if self in (Form.PNG, Form.JPEG):
            return 2  # the pixels of Pillow, and the file
        computed = 2 * FLOAT if self.is_float else 1  # joined from the parts of several batches
        return computed + DTYPES[self.type_name(dtype)].itemsize


def float_type(dtype: str | None) -> str:
    """Return the data type of floats in a response: that of the request, or float32."""
    return "float32" if dtype is None or dtype in INTEGERS else dtype


def form_of(query: DecodeQuery, accept: bytes) -> Form:
    """Return the form that a request asks for; raises `NotAcceptable` if its Accept header excludes it.

    With `pil` it is a file, unless the header excludes both formats: the client sends one media type alone.
    """
    files = (JPEG, PNG) if query.image_format == "jpg" else (PNG, JPEG)
    offered = (TENSOR,) if query.output_type == "pt" else (*files, TENSOR)
    media_type = next((each for each in offered if negotiate((each,), accept)), None)
    if media_type is None:
        got = quoted(accept.decode("latin-1"))
        raise NotAcceptable(f"output_type {query.output_type} is answered as {' or '.join(offered)}, Accept is {got}")
    if query.output_type == "pt":
        return Form.LEVELS if query.partial_postprocess else Form.SIGNED
    return Form.UNIT if media_type == TENSOR else Form(media_type)


async def respond(request: EndpointRequest, pixels: np.ndarray, form: Form, dtype: str) -> Response:
    """Respond with pixels [N, C, H, W] in a form: uint8, or for a form of floats float32 in [0, 1].

    Floats in the response have the data type `dtype`.
    """
    context, cost = request.context, pixels.size * form.memory(dtype)
    if form in (Form.PNG, Form.JPEG):
        body = await request.run_codec(cost, write_images, context, form.value, pixels, None, QUALITY)
        return Response(form.value, body)
    name = form.type_name(dtype)
    shown = pixels if form == Form.SIGNED else as_rgb(pixels)
    if form == Form.LEVELS:
        shown = shown.transpose(0, 2, 3, 1)
    body = await request.run_codec(cost, _write_each, context, shown, partial(_VALUES[form], dtype=name))
    return tensor_response(body, TensorType(name, shown.shape))


def tensor_response(body: bytes, kind: TensorType) -> Response:
    """Respond with the bytes of a tensor; the headers have its shape and data type."""
    headers = ((b"shape", json.dumps(kind.shape).encode()), (b"dtype", kind.dtype.encode()))
    return Response(TENSOR, body, headers)


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """Return pixels [N, 3, H, W]: of grey ones the level is repeated, as the client makes RGB images of them."""
    count, channels, height, width = pixels.shape
    return pixels if channels == RGB else np.broadcast_to(pixels, (count, RGB, height, width))


def _write_each(context: RequestContext, images: Iterable[np.ndarray], write: Callable[[np.ndarray], bytes]) -> bytes:
    """Write images by their channels or rows, so that there are no floats of all at once."""
    stream = io.BytesIO()
    for image in until_deadline(context, images):
        stream.writelines(map(write, image))
    return stream.getvalue()


def _signed(image: np.ndarray, dtype: str) -> bytes:
    return write_tensor(image * np.float32(2) - np.float32(1), dtype)


_VALUES: dict[Form, Callable[..., bytes]] = {Form.SIGNED: _signed, Form.UNIT: write_tensor, Form.LEVELS: write_tensor}


def header_of(kind: TensorType) -> Header:
    """Return the shape [N, H, W, C] of the images in a tensor [(N,) C, H, W], or of uint8 also [N, H, W, C].

    It is that of the array that `read_pixels` returns.

    Raises `UnprocessableContent` for a tensor of no images.
    """
    shape = (1, *kind.shape) if len(kind.shape) == 3 else kind.shape
    if len(shape) == 4:
        count, *sides = shape
        if _is_channels_last(kind):
            return Header(DTYPES["uint8"], (count, *sides), is_fortran=False, offset=0)
        if sides[0] in (1, 3):
            return Header(DTYPES["uint8"], (count, *sides[1:], sides[0]), is_fortran=False, offset=0)
    raise UnprocessableContent(
        f"shape: expected images [N, C, H, W] with C of 1 or 3, or of uint8 [N, H, W, C], got {list(kind.shape)}"
    )


def read_pixels(body: bytes, kind: TensorType, expired: Callable[[], bool]) -> np.ndarray:
    """Return the images of a tensor as grey levels, writable uint8 [N, H, W, C]; floats are in [-1, 1].

    Raises `BadRequest` for another number of bytes, `UnprocessableContent` for floats out of range, and
    `DeadlineExceeded` before the next image once `expired`.
    """
    tensor = read_tensor(body, kind, "the tensor")
    if len(kind.shape) == 3:
        tensor = tensor[None]
    levels = tensor.copy() if kind.dtype == "uint8" else _grey_levels(tensor, expired)
    return levels if _is_channels_last(kind) else levels.transpose(0, 2, 3, 1)


def _is_channels_last(kind: TensorType) -> bool:
    return kind.dtype == "uint8" and kind.shape[-1] in (1, 3)


def _grey_levels(tensor: np.ndarray, expired: Callable[[], bool]) -> np.ndarray:
    flat = tensor.reshape(len(tensor), -1)
    levels = np.empty(flat.shape, np.uint8)
    for index, image in enumerate(flat):
        if expired():
            raise DeadlineExceeded(f"images[{index}] was not read within the request's deadline")
        for start in range(0, image.size, BLOCK):
            values = image[start : start + BLOCK].astype(np.float32)
            low, high = float(values.min()), float(values.max())
            if not -1 - MAX_OVERSHOOT <= low <= high <= 1 + MAX_OVERSHOOT:
                raise UnprocessableContent(f"images[{index}]: expected floats in [-1, 1], got {low:g} to {high:g}")
            levels[index, start : start + BLOCK] = np.clip(values, -1, 1) * np.float32(127.5) + np.float32(128)
    return levels.reshape(tensor.shape)
