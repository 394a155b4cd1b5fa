"""Endpoints: their declaration, the request that a handler gets, and the ASGI application that calls the handler.

Endpoints are plain Starlette routes. FastAPI's own routes would take longer than the rest of a small request; they are
used for the OpenAPI document only (`app.api.openapi`).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.content_negotiation import negotiate
from app.api.query import Query, parse_query, without_parameters
from app.api.services import Services
from app.codecs.compression import ENCODED, MIN_COMPRESSED_BYTES, accepted_coding, compress
from app.codecs.media_types import JSON, NPY
from app.context import Operation, RequestContext
from app.errors import ContentTooLarge, DeadlineExceeded, NotAcceptable, Unavailable
from app.inference.loaded_model import LoadedModel
from app.validation import quoted

MAX_INLINE_BYTES = 2**16
"""Bytes or pixels up to which codec work runs on the event loop, because a thread hop would take longer."""

MAX_MESSAGE_BYTES = 2**16
"""Bytes of a response that are sent at once."""

LARGE_RESPONSE_BYTES = 2**17
"""Bytes from which a response is sent in pieces, so that the request holds its memory until the client has read it."""

_NO_PARAMETERS: Mapping[str, str] = MappingProxyType({})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Response:
    """What a handler returns: a body of a media type, with more headers, and the codings that it may get."""

    media_type: str
    body: bytes
    headers: Sequence[tuple[bytes, bytes]] = ()
    status: int = 200
    codings: tuple[str, ...] = ENCODED


@dataclass(slots=True)
class EndpointRequest:
    """A request with a valid query and Accept header; `media_type` is the negotiated one of the response.

    `path_parameters` are the values of the parameters in the path, by their names.
    """

    services: Services
    context: RequestContext
    media_type: str
    receive: Receive
    path_parameters: Mapping[str, str] = field(default_factory=dict)

    def model(self) -> LoadedModel:
        """Return the model that computes this response; raises `Unavailable` if it is not ready."""
        engine = self.services.engine
        if not engine.ready:
            raise Unavailable(engine.unready_reason)
        model = engine.loaded_model
        self.context.model = model.identity
        return model

    def reserve(
        self,
        model: LoadedModel,
        operation: Operation,
        count: int,
        draws: int = 0,
        *,
        part: str = "images",
        size: tuple[int, int] | None = None,
        more: int = 0,
    ) -> None:
        """Check that the request may have `count` items with `draws` draws each, and reserve the memory for them.

        `part` is the part of the request that has the items, `size` that of their images if the model has several. An
        item takes so many `more` bytes than in a response of grey levels. Raises `ContentTooLarge` for too many items,
        or too much memory or time for one request, `Unavailable` for too much memory of all requests together.
        """
        limits = self.services.limits
        if count * (draws or 1) > limits.max_items:
            each = f" with {draws} draws each" if draws > 1 else ""
            what = f"{count} image{'s' * (count != 1)}{each}"
            raise ContentTooLarge(f"{what}: more than the {limits.max_items} items allowed in one request")
        footprint = model.footprint(operation, size, as_json=self.media_type == JSON)
        if more:
            footprint = footprint._replace(item=footprint.item + more)
        memory = count * (footprint.item + draws * footprint.draw)
        if memory > limits.max_memory_bytes:
            raise footprint.excess(count, draws, limits.max_memory_bytes, part)
        if model.sized is not None and size is not None:
            model.sized.require_time(operation, size, count, self.context.deadline - time.monotonic())
        self.services.budget.reserve(self.context, memory)

    async def run_codec(self, cost: int, work: Callable[..., T], *arguments: Any) -> T:
        """Run codec work and record its time: on the event loop if its cost is small, otherwise on a codec thread.

        Raises `DeadlineExceeded` when the deadline passes.
        """
        context, start = self.context, time.monotonic()
        try:
            if cost <= MAX_INLINE_BYTES:
                return work(*arguments)
            async with asyncio.timeout(context.deadline - start):
                return await self.services.codec_threads.run(cost, partial(work, *arguments))
        except TimeoutError:
            raise DeadlineExceeded("the images were not read or written within the request's deadline") from None
        except asyncio.CancelledError:
            context.deadline = start  # the thread checks the deadline before each image
            raise
        finally:
            context.record_stage("codec", start, time.monotonic())


Handler = Callable[[EndpointRequest, Any], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Declaration of an endpoint.

    `media_types` are those of the response, the default first; without any, the Accept header is ignored. Without a
    `query` the query string is ignored. `documentation` are options of FastAPI's `add_api_route`. An endpoint of a
    dialect says whether it `uses_queue` and `is_public`, as `app.http.targets.Target` has it; its path may have
    parameters as Starlette writes them. Its `label` in metrics is by default the path.
    """

    path: str
    handler: Handler
    method: str = "GET"
    query: type[Query] | None = Query
    media_types: tuple[str, ...] = (JSON,)
    documentation: Mapping[str, Any] = field(default_factory=dict)
    uses_queue: bool = False
    is_public: bool = False
    label: str = ""

    @property
    def name(self) -> str:
        """The name of the handler, which is the operation id in the OpenAPI document."""
        return str(getattr(self.handler, "__name__", ""))


def routes(services: Services, endpoints: Sequence[Endpoint]) -> list[Route]:
    """Return a plain route for each path; a GET endpoint answers HEAD as well."""
    by_path: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        by_path.setdefault(endpoint.path, []).append(endpoint)
    return [_route(services, path, group) for path, group in by_path.items()]


def _route(services: Services, path: str, endpoints: Sequence[Endpoint]) -> Route:
    apps = {endpoint.method: _EndpointApp(services, endpoint) for endpoint in endpoints}
    return Route(path, _MethodApps(apps), methods=[*apps], name=endpoints[0].name)


async def _compressed(request: EndpointRequest, response: Response) -> Response:
    """Return a response of JSON or an array in the coding that the client accepts, if that makes it much smaller."""
    coding = accepted_coding(request.context.headers[b"accept-encoding"], response.codings)
    if not coding or response.media_type not in (JSON, NPY):
        return response
    body = await request.run_codec(len(response.body), compress, response.body, coding)
    if body is None:
        return response
    more = ((b"content-encoding", coding.encode()), (b"vary", b"accept-encoding"))
    return Response(response.media_type, body, (*response.headers, *more), response.status)


class EndpointRouter:
    """ASGI application that finds an endpoint by its exact method and path; all other requests go to a `router`.

    Among these are traced requests: the router names their spans.
    """

    def __init__(self, router: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._router = router
        self._apps = {
            (method, route.path): app
            for route in routes
            if isinstance(route, Route) and isinstance(route.app, _MethodApps)
            for method, app in route.app.by_method.items()
        }

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        app = self._router
        if scope["type"] == "http" and "fastapi.telemetry" not in scope:
            app = self._apps.get((scope["method"], scope["path"]), app)
        return app(scope, receive, send)


class _MethodApps:
    """ASGI application of the endpoints of one path, by their methods."""

    def __init__(self, apps: Mapping[str, "_EndpointApp"]) -> None:
        self.by_method = {**apps, "HEAD": apps["GET"]} if "GET" in apps else dict(apps)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self.by_method[scope["method"]](scope, receive, send)


class _EndpointApp:
    """ASGI application of one endpoint."""

    def __init__(self, services: Services, endpoint: Endpoint) -> None:
        self._services = services
        self._handler = endpoint.handler
        self._media_types = endpoint.media_types
        self._schema = endpoint.query
        self._no_query = endpoint.query and without_parameters(endpoint.query)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query, query_string = self._no_query, scope["query_string"]
        if (query_string or query is None) and self._schema is not None:
            query = parse_query(self._schema, query_string)
        context: RequestContext = scope["state"]["context"]
        media_type, accept = "", context.headers.get(b"accept", b"")
        if self._media_types and not (media_type := negotiate(self._media_types, accept)):
            offered, got = " or ".join(self._media_types), quoted(accept.decode("latin-1"))
            raise NotAcceptable(f"this endpoint answers {offered}; Accept asks for none of them, got {got}")
        parameters = scope.get("path_params", _NO_PARAMETERS)
        request = EndpointRequest(self._services, context, media_type, receive, parameters)
        response = await self._handler(request, query)
        if len(response.body) >= MIN_COMPRESSED_BYTES and b"accept-encoding" in context.headers:
            response = await _compressed(request, response)
        body = response.body
        headers = [
            (b"content-type", response.media_type.encode()),
            (b"content-length", b"%d" % len(body)),
            *response.headers,
        ]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        if len(body) > LARGE_RESPONSE_BYTES:
            await self._send_in_pieces(body, context, send)
        else:
            await send({"type": "http.response.body", "body": body})

    async def _send_in_pieces(self, body: bytes, context: RequestContext, send: Send) -> None:
        self._services.budget.reserve(context, len(body))  # in place of the pixels, which are freed by now
        view = memoryview(body)
        for start in range(0, len(body), MAX_MESSAGE_BYTES):
            end = start + MAX_MESSAGE_BYTES
            await send({"type": "http.response.body", "body": view[start:end], "more_body": end < len(body)})
