"""What a caller gets back: latents, images and scores in the media type that was asked for, and problems."""

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain
from typing import TypeVar

import mimeparse
import numpy as np
from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from app.api.payloads import codec
from app.api.schemas import history_of, latents_json, model_of
from app.codecs.grid import bands
from app.codecs.images import write_npy
from app.codecs.json_bytes import dump
from app.codecs.media_types import JSON, NPY
from app.codecs.png import write_png, write_png_bands
from app.context import RequestContext
from app.errors import DeadlineExceeded, NotAcceptable
from app.inference.engine import Engine

PNG = "image/png"
IMAGES, NUMBERS = (PNG, JSON, NPY), (JSON, NPY)
LONGEST = 1000
"""Characters of an Accept header that are read: longer than any browser's, and the time to read more is quadratic."""


PIECE = 2**18
"""Bytes of a response that are sent at once."""

LARGE = 2**20
"""Bytes of a response from which it is sent in pieces."""

T = TypeVar("T")


class ContentNegotiator:
    """The media type of the answer: the first of `offered` that the Accept header likes best; known before any work."""

    def __init__(self, *offered: str) -> None:
        self.offered = offered

    def __call__(self, request: Request) -> str:
        header = ",".join(request.headers.getlist("accept")).lower()
        best = _best(self.offered, header)
        if not best:
            raise NotAcceptable(f"this endpoint answers {' or '.join(self.offered)}; Accept asks for none of them")
        return best


class LargeResponse(Response):
    """A response that is sent in pieces, so that the request, and its memory, are under way until the client has it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # as ASGI has it
        body = memoryview(self.body)
        scope["app"].state.services.budget.reserve(
            scope["state"]["context"], len(body)
        )  # the pixels that it was made of are gone
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for place in range(0, len(body), PIECE):
            last = place + PIECE >= len(body)
            await send({"type": "http.response.body", "body": body[place : place + PIECE], "more_body": not last})


async def images(
    context: RequestContext, media: str, pixels: np.ndarray, columns: int | None, headers: dict[str, str] | None = None
) -> Response:
    """Pixels [N, C, H, W] as one PNG, as JSON of many, or as an array [N, H, W, C]."""
    return _response(await codec(context, pixels.size, _images, context, media, pixels, columns), headers, media)


async def latents(
    context: RequestContext, media: str, rows: Sequence[np.ndarray], model: str, headers: dict[str, str] | None = None
) -> Response:
    """Mean, logvar and each of L draws [N, *latent] as JSON, or as one array [2 + L, N, *latent]."""
    size = len(rows) * rows[0].nbytes
    write = partial(latents_json, rows, model, partial(_while_in_time, context)) if media == JSON else None
    return _response(await codec(context, size, write or partial(_latents_npy, rows)), headers, media)


def model(context: RequestContext, engine: Engine) -> Response:
    """What is served now."""
    served = engine.served
    context.model = served.model
    how = (str(engine.device), engine.device.precision, served.networks.runtime)
    told = model_of(served.checkpoint, *how, batch_invariant=served.batch_invariant)
    return Response(dump(told), media_type=JSON)


def history(context: RequestContext, engine: Engine) -> Response:
    """How the model that is served now was trained and evaluated."""
    checkpoint = engine.served.checkpoint
    context.model = engine.served.model
    return Response(dump(history_of(checkpoint)), media_type=JSON)


@lru_cache(maxsize=64)  # most callers ask for the same
def _best(offered: tuple[str, ...], header: str) -> str:
    if not header:
        return offered[0]
    if len(header) > LONGEST:
        return ""
    try:
        # On a tie the library takes the last.
        best: str = mimeparse.best_match(list(reversed(offered)), header)
    except mimeparse.MimeTypeParseException:
        best = ""
    return best


def _response(content: bytes, headers: dict[str, str] | None, media: str) -> Response:
    return (LargeResponse if len(content) > LARGE else Response)(content, headers=headers, media_type=media)


def _latents_npy(rows: Sequence[np.ndarray]) -> bytes:
    return write_npy(np.stack(rows))


def _images(context: RequestContext, media: str, pixels: np.ndarray, columns: int | None) -> bytes:
    if media == NPY:
        return _array(context, pixels)
    if media == JSON:
        texts = (base64.b64encode(write_png(image)) for image in _while_in_time(context, pixels))
        separated = chain.from_iterable((b'","', text) for text in texts)
        next(separated)
        return b"".join((b'{"images":["', *separated, b'"]}'))
    if len(pixels) == 1:
        return write_png(pixels[0])
    shape, rows = bands(pixels, columns)
    return write_png_bands(shape, _while_in_time(context, rows))


def _array(context: RequestContext, pixels: np.ndarray) -> bytes:
    """As `write_npy` writes pixels [N, H, W, C], without a second copy of all."""
    count, channels, height, width = pixels.shape
    stream, at_once = io.BytesIO(), max(1, PIECE // pixels[0].size)
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, height, width, channels)}
    np.lib.format.write_array_header_1_0(stream, header)
    for start in _while_in_time(context, range(0, count, at_once)):
        stream.write(pixels[start : start + at_once].transpose(0, 2, 3, 1).tobytes())
    return stream.getvalue()


def _while_in_time(context: RequestContext, items: Iterable[T]) -> Iterator[T]:
    """The items; a thread that works on them ends before the next one where the request has no more time."""
    for item in items:
        if context.expired():
            raise DeadlineExceeded("the response was not written within the request's deadline")
        yield item
