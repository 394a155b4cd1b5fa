"""Limit of HTTP: an ASGI application on uvicorn that reads and returns the same bytes without work."""

import os
from pathlib import Path
from typing import Any

import uvicorn

_MEDIA = {"/encode": b"application/json", "/decode": b"image/png", "/reconstruct": b"image/png"}


class Bare:
    """An ASGI application with precomputed responses."""

    def __init__(self) -> None:
        folder = Path(os.environ["BENCH_ANSWERS"])
        self.answers = {path: (folder / path[1:]).read_bytes() for path in _MEDIA}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        answer, media = self.answers[scope["path"]], _MEDIA[scope["path"]]
        headers = [(b"content-type", media), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    uvicorn.run(
        "benchmarks.peers.bare:Bare",
        factory=True,
        port=int(os.environ["BENCH_PORT"]),
        workers=int(os.environ["BENCH_PROCESSES"]),
        access_log=False,
        log_level="error",
    )
