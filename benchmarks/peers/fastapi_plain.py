"""A plain FastAPI endpoint: no batching, the work where the request is."""

import uvicorn
from fastapi import FastAPI, Request, Response

from benchmarks.peers.work import MEDIA, OPERATIONS, Work, port, setting


def create() -> FastAPI:
    """The application."""
    app = FastAPI()
    for operation in OPERATIONS:
        _add(app, operation)
    return app


def _add(app: FastAPI, operation: str) -> None:
    work = Work(operation, setting("THREADS"))

    async def answer(request: Request) -> Response:
        return Response(work([await request.body()])[0], media_type=MEDIA[operation])

    app.post(f"/{operation}")(answer)


if __name__ == "__main__":
    uvicorn.run(
        "benchmarks.peers.fastapi_plain:create",
        factory=True,
        port=port(),
        workers=setting("PROCESSES"),
        timeout_worker_healthcheck=60,
        access_log=False,
        log_level="error",
    )
