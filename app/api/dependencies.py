"""What the endpoints are given, from a request to pixels and latents; all of it checked where they can be refused.

One object, not a tree of dependencies: FastAPI takes 15 us to solve each, and a thread for one that is no coroutine.
"""

import re
from functools import cached_property, partial
from typing import Annotated, Any

import numpy as np
from fastapi import Query, Request
from pydantic import BeforeValidator

from app.api.payloads import read_latents, read_pixels
from app.api.responses import IMAGES, NUMBERS, ContentNegotiator
from app.api.services import Services
from app.codecs.images import Fit
from app.codecs.media_types import JSON
from app.context import RequestContext
from app.errors import ContentTooLarge, Unavailable, UnprocessableContent
from app.inference.loaded_model import LoadedModel
from app.validation import quoted

LATENTS, PICTURES, OBJECT = ContentNegotiator(*NUMBERS), ContentNegotiator(*IMAGES), ContentNegotiator(JSON)

_INTEGER = re.compile(r"-?[0-9]+")
_DECIMAL = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def _digits_alone(text: Any) -> Any:
    """Refuse what pydantic would read as an integer all the same: `1.0`, `+3`, `1_0` and blanks around it."""
    if isinstance(text, str) and not _INTEGER.fullmatch(text):
        raise ValueError("expected a valid integer of digits alone")
    return text


def _decimal(text: Any) -> Any:
    """Refuse what pydantic would read as a number all the same: `1_0`, `inf`, `nan` and blanks around it."""
    if isinstance(text, str) and not _DECIMAL.fullmatch(text):
        raise ValueError("expected a finite number such as 0.7")
    return text


SEED = (
    "the same seed gives the same bytes; a seed that the service drew is told in X-Seed. One seed for images that are "
    "sent one by one gives all of them the same draw: for independent draws send them together, or give each its own"
)

Integer = Annotated[int, BeforeValidator(_digits_alone)]
Seed = Annotated[
    Annotated[Integer, Query(ge=0, lt=2**63)] | None,
    BeforeValidator(lambda text: None if text == "" else text),
    Query(description=SEED),
]
Samples = Annotated[Integer | None, Query(ge=1, description="draws from the posterior of each image")]
Count = Annotated[Integer, Query(ge=1, description="how many images")]
Temperature = Annotated[
    float,
    BeforeValidator(_decimal),
    Query(ge=0, le=10, allow_inf_nan=False, description="scales the prior's deviation"),
]
Columns = Annotated[
    Integer | None, Query(ge=1, description="images in a row of the grid; by default it is about square")
]
FitTo = Annotated[Fit, Query(description="how a picture of another size becomes one of the model's")]


class EndpointRequest:
    """A request to an endpoint that can answer in the media types of `accepts`; `media` is the one it will be."""

    def __init__(self, request: Request, accepts: ContentNegotiator) -> None:
        self._request = request
        if request.scope["query_string"]:
            _require_known(request)
        self.media = accepts(request)
        self.context: RequestContext = request.state.context
        services: Services = request.app.state.services
        self.limits = services.settings.limits
        self.engine = services.engine
        self._budget = services.budget

    @cached_property
    def served(self) -> LoadedModel:
        """The checkpoint that will do the work; `Unavailable` where it takes none."""
        if not self.engine.ready:
            raise Unavailable
        self.context.model = self.engine.served.model
        return self.engine.served

    async def pixels(self, fit: Fit, operation: str, draws: int = 0) -> np.ndarray:
        """The images of the body, uint8 [N, C, H, W] of the model's shape, once there is memory for the operation."""
        reserve = partial(self._reserve_for_images, operation, draws)
        return await read_pixels(self._request, self.context, self.served.config.image_shape, fit, self.limits, reserve)

    async def latents(self) -> np.ndarray:
        """The latents of the body, float32 [N, *latent]."""
        served, reserve = self.served, partial(self._budget.reserve, self.context)
        shape = served.config.latent_shape
        return await read_latents(self._request, self.context, shape, served.model, self.limits, reserve)

    def reserve(self, name: str, count: int, operation: str, draws: int = 0) -> None:
        """Count the memory of `count` items until the request has ended; `name` is the part of it that has them.

        Raises `ContentTooLarge` for more than one request may take, `Unavailable` where all requests under way take too
        much.
        """
        footprint = self.served.footprints[operation, self.media == JSON]
        size = footprint.require(count, draws, self.limits.max_memory_bytes, name)
        self._budget.reserve(self.context, size)

    def _reserve_for_images(self, operation: str, draws: int, count: int) -> None:
        self.require_items(count, draws or 1)
        self.reserve("images", count, operation, draws)

    def require_items(self, count: int, samples: int = 1) -> None:
        """Refuse more images, or images times draws, than one request may ask for."""
        if count * samples > self.limits.max_items:
            each = f" with {samples} draws each" if samples > 1 else ""
            raise ContentTooLarge(
                f"{count} images{each} exceed the {self.limits.max_items} items allowed in one request"
            )


def _require_known(request: Request) -> None:
    """Refuse a parameter that the endpoint does not have, or that comes twice, so that a typing error is told."""
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    given = set()
    for name, _ in request.query_params.multi_items():
        if name not in known:
            raise UnprocessableContent(
                f"query: unknown parameter {quoted(name)}; known are {', '.join(known) or 'none'}"
            )
        if name in given:
            raise UnprocessableContent(f"query: expected each parameter once, got {name} more often")
        given.add(name)
