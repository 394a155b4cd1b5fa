"""A small reverse proxy below a path prefix, on a real socket."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.in_thread_server import on_a_socket

_DROPPED = ("connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding")
"""Header fields of a connection, and those of a body that the client has decoded."""


@contextmanager
def proxy(service: str, prefix: str, *, removes_prefix: bool) -> Iterator[str]:
    """Forward all requests at and below a prefix to a service; gives the address of the prefix without a slash."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with httpx.AsyncClient(base_url=service, timeout=30) as app.state.client:
            yield

    async def forward(request: Request) -> Response:
        path = request.url.path
        answer = await request.app.state.client.request(
            request.method,
            (path.removeprefix(prefix) or "/") if removes_prefix else path,
            params=request.query_params,
            headers=_passed_on(request.headers.items()),
            content=await request.body(),
        )
        return Response(answer.content, answer.status_code, dict(_passed_on(answer.headers.items())))

    paths = (prefix, prefix + "/{path:path}")
    app = Starlette(routes=[Route(path, forward, methods=["GET", "POST"]) for path in paths], lifespan=lifespan)
    with on_a_socket(app) as url:
        yield f"{url}{prefix}"


def _passed_on(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name not in _DROPPED]
