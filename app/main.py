"""The only module that builds: settings, metrics, checkpoint, engine, and the FastAPI application around them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from threading import Barrier

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from opentelemetry.trace import TracerProvider
from starlette.exceptions import HTTPException

from app.api import admin, routes
from app.api import health as probes
from app.api import openapi as contract
from app.codecs.images import rely_on_own_limits
from app.errors import ServiceError
from app.http.admission import AdmissionController, is_open
from app.http.cors import CorsMiddleware
from app.http.lifecycle import LifecycleMiddleware
from app.http.problems import as_service_error, problem
from app.http.shortcut import Shortcut
from app.inference.engine import Engine
from app.inference.reload import ModelReloader
from app.observability.metrics import Metrics
from app.observability.tracing import Tracing
from app.resources import codec_threads
from app.settings import Settings
from model.checkpoint import read_checkpoint

log = logging.getLogger(__name__)

_DESCRIPTION = """Images to latents, latents to images, images to their reconstructions, the prior to new images.

Every log-probability is in nats, higher is better. Errors are `application/problem+json`."""


def create_app(settings: Settings | None = None, tracer_provider: TracerProvider | None = None) -> FastAPI:
    """The service around the model that the settings name; `tracer_provider` stands in for the environment's.

    Raises `model.checkpoint.CheckpointError` for a folder without a usable model, `ValueError` for a device that is
    not there.
    """
    settings = settings or Settings()
    rely_on_own_limits()
    metrics, door = Metrics(), AdmissionController(settings)
    checkpoint = read_checkpoint(settings.model)
    for warning in checkpoint.warnings:
        log.warning(warning)
    engine = Engine(checkpoint, settings, metrics)
    door.require_room = engine.require_room

    def look() -> None:
        ready = engine.ready and not door.draining
        metrics.ready.set(ready)
        metrics.workers.set(ready)
        metrics.device_memory.set(engine.device.memory())
        metrics.count_dropped_log_lines()

    metrics.look = look
    app = FastAPIOffline(
        title="VAE service",
        description=_DESCRIPTION,
        version=version("vae-service"),
        lifespan=_lifespan,
        license_info=contract.LICENSE,
        openapi_tags=contract.TAGS,
        servers=contract.SERVERS,
        generate_unique_id_function=lambda route: route.name,
        redoc_url=None,
        static_url="/docs/static",
        redirect_slashes=False,
        telemetry={
            "auto_configure": tracer_provider is None,
            "tracer_provider": tracer_provider,
            "exclude": lambda scope: is_open(scope["path"]),
            "operation_spans": False,
            "metrics": False,  # Prometheus has them
            "logs": False,
        },
    )
    app.state.settings, app.state.metrics, app.state.door = settings, metrics, door
    app.state.engine, app.state.reloading = engine, ModelReloader(engine, settings, metrics)
    app.state.exposition = probes.shared_exposition(metrics)
    lock = [Depends(HTTPBearer(auto_error=False))] if door.locked else []
    app.include_router(routes.router, dependencies=lock)
    app.include_router(admin.router, dependencies=lock, include_in_schema=bool(lock))
    app.include_router(probes.router)
    app.add_middleware(Shortcut, routes=[*routes.router.routes, *admin.router.routes])
    app.add_middleware(LifecycleMiddleware, door=door, metrics=metrics, tracing=Tracing(tracer_provider))
    if settings.cors_origins:
        app.add_middleware(
            CorsMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID", "X-Model", "X-Seed", "Server-Timing", "Retry-After"],
        )
    app.add_exception_handler(ServiceError, _answer)
    app.add_exception_handler(RequestValidationError, _answer)
    app.add_exception_handler(HTTPException, _answer)
    contract.describe(app, lambda: engine.served.checkpoint)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    engine, settings = app.state.engine, app.state.settings
    asyncio.get_running_loop().set_default_executor(_codec_pool(codec_threads(settings)))
    chosen = {"settings": settings.model_dump(mode="json")}
    log.info("serving %s on %s", engine.served.model, engine.device, extra=chosen)
    engine.start()
    yield
    await engine.close()


def _codec_pool(threads: int) -> ThreadPoolExecutor:
    """Threads for codec work, all of them started: where memory is lacking later, none could be started any more."""
    pool, together = ThreadPoolExecutor(threads, "codec"), Barrier(threads)
    for _ in range(threads):
        pool.submit(together.wait)
    return pool


async def _answer(request: Request, failure: Exception) -> Response:
    return problem(as_service_error(failure), request.state.context.request_id)
