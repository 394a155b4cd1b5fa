"""Applications on real sockets, for those laws where the wire matters."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from app.main import create_app
from app.settings import Settings


@contextmanager
def on_a_socket(app: ASGIApp) -> Iterator[str]:
    """An application on a real socket; gives its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def listening(**settings: Any) -> AbstractContextManager[str]:
    """The service on a real socket; gives its URL."""
    return on_a_socket(create_app(Settings(**{"threads": 1, **settings})))
