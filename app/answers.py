"""What a caller gets back: latents, images and scores in the media type that was asked for, and problems."""

import base64
from collections.abc import Sequence
from functools import lru_cache

import mimeparse
import numpy as np
from fastapi import Request, Response

from app.bodies import codec
from app.calls import Call
from app.engine import Engine
from app.errors import NotAcceptable, ServiceError
from app.images import grid, write_npy
from app.media import JSON, NPY
from app.png import write_png
from app.schemas import Problem, dump, history_of, latents_json, model_of

PNG, PROBLEM = "image/png", "application/problem+json"
IMAGES, NUMBERS = (PNG, JSON, NPY), (JSON, NPY)
LONGEST = 1000
"""Characters of an Accept header that are read: longer than any browser's, and the time to read more is quadratic."""


class Accepts:
    """The media type of the answer: the first of `offered` that the Accept header likes best; known before any work."""

    def __init__(self, *offered: str) -> None:
        self.offered = offered

    def __call__(self, request: Request) -> str:
        header = ",".join(request.headers.getlist("accept")).lower()
        best = _best(self.offered, header)
        if not best:
            raise NotAcceptable(f"this endpoint answers {' or '.join(self.offered)}; Accept asks for none of them")
        return best


async def images(
    call: Call, media: str, pixels: np.ndarray, columns: int | None, headers: dict[str, str] | None = None
) -> Response:
    """Pixels [N, C, H, W] as one PNG, as JSON of many, or as an array [N, H, W, C]."""
    return Response(await codec(call, pixels.size, _images, media, pixels, columns), headers=headers, media_type=media)


async def latents(
    call: Call, media: str, rows: Sequence[np.ndarray], model: str, headers: dict[str, str] | None = None
) -> Response:
    """Mean, logvar and each of L draws [N, *latent] as JSON, or as one array [2 + L, N, *latent]."""
    size = len(rows) * rows[0].nbytes
    content = await codec(call, size, *((latents_json, rows, model) if media == JSON else (_latents_npy, rows)))
    return Response(content, headers=headers, media_type=media)


def model(call: Call, engine: Engine) -> Response:
    """What is served now."""
    served = engine.served
    call.model = served.model
    how = (str(engine.device), engine.device.precision, served.networks.runtime)
    told = model_of(served.checkpoint, *how, batch_invariant=served.batch_invariant)
    return Response(dump(told), media_type=JSON)


def history(call: Call, engine: Engine) -> Response:
    """How the model that is served now was trained and evaluated."""
    checkpoint = engine.served.checkpoint
    call.model = engine.served.model
    return Response(dump(history_of(checkpoint)), media_type=JSON)


def problem(error: ServiceError, request_id: str) -> Response:
    """RFC 9457 problem details."""
    body = Problem(
        type=error.urn(),
        title=error.title,
        status=error.status,
        detail=error.detail,
        error=error.detail,
        request_id=request_id,
    )
    return Response(dump(body.model_dump()), error.status, error.headers, PROBLEM)


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


def _latents_npy(rows: Sequence[np.ndarray]) -> bytes:
    return write_npy(np.stack(rows))


def _images(media: str, pixels: np.ndarray, columns: int | None) -> bytes:
    if media == NPY:
        return write_npy(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)))
    if media == JSON:
        return dump({"images": [base64.b64encode(write_png(image)).decode() for image in pixels]})
    return write_png(pixels[0] if len(pixels) == 1 else grid(pixels, columns))
