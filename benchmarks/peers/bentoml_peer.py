"""BentoML: routes of an ASGI application mounted on its service, no batching."""

import os
import sys
from pathlib import Path

import bentoml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.peers.work import MEDIA, OPERATIONS, Work, port, setting

works: dict[str, Work] = {}


async def answer(request: Request) -> Response:
    """One body in, one body out."""
    operation = request.url.path.strip("/")
    if operation not in works:
        works[operation] = Work(operation, setting("THREADS"))
    (content,) = works[operation]([await request.body()])
    return Response(content, media_type=MEDIA[operation])


app = Starlette(routes=[Route(f"/{operation}", answer, methods=["POST"]) for operation in OPERATIONS])


@bentoml.asgi_app(app)
@bentoml.service(workers=setting("PROCESSES"), logging={"access": {"enabled": False}})
class Peer:
    """Every operation."""


if __name__ == "__main__":
    words = ["serve", "benchmarks.peers.bentoml_peer:Peer", "--port", str(port()), "--host", "127.0.0.1"]
    command = str(Path(sys.executable).with_name("bentoml"))
    os.execv(command, [command, *words])  # noqa: S606  # so that a signal reaches it
