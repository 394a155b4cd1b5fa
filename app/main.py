"""Application factory: builds the services bottom-up, and the FastAPI application around them."""

import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

from fastapi import APIRouter, FastAPI
from opentelemetry.trace import TracerProvider
from starlette.routing import BaseRoute

from app.api import admin, docs, health
from app.api import routes as model_api
from app.api.dialects import DIALECTS
from app.api.endpoint import routes
from app.api.openapi import DocumentedApplication, documentation
from app.api.services import Services, update_gauges
from app.codecs.threads import CodecThreads
from app.http.admission import AdmissionController
from app.http.auth import ApiKeys
from app.http.budget import MemoryBudget
from app.http.cors import CorsMiddleware
from app.http.lifecycle import LifecycleMiddleware
from app.http.root_path import route_path
from app.http.state import ServiceState
from app.http.targets import Targets
from app.inference.core_sharing import CoreUsage
from app.inference.engine import Engine
from app.inference.reload import ModelReloader
from app.observability.metrics import Metrics
from app.observability.request_log import RequestLog
from app.observability.tracing import Tracing
from app.resources import codec_threads
from app.settings import Settings, SettingsError
from app.web import page
from model.formats import read_model

log = logging.getLogger(__name__)

_DESCRIPTION = """Images to latents, latents to images, images to their reconstructions, the prior to new images.

Every log-probability is in nats, higher is better. Errors are `application/problem+json`."""


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """What a worker shares with the other workers of the service; the defaults are those of a single process.

    `model_reloaded` is called after a reload that the other workers should follow.
    """

    core_usage: CoreUsage | None = None
    model_reloaded: Callable[[], None] | None = None


def create_app(
    settings: Settings | None = None,
    tracer_provider: TracerProvider | None = None,
    *,
    state: ServiceState | None = None,
    group: ProcessGroup | None = None,
) -> FastAPI:
    """Build the service of the model that the settings name.

    `tracer_provider` replaces the one of OpenTelemetry's environment variables. A server that limits connections passes
    the `state` with its connections. Raises `model.files.CheckpointError` for a folder without a usable model,
    `UserError` for a device that does not exist.
    """
    services = build_services(settings or Settings(), state or ServiceState(), group or ProcessGroup())
    tracing, root_path = Tracing(tracer_provider), services.settings.root_path
    app = DocumentedApplication(
        spec=lambda: services.engine.loaded_model.spec,
        documented=partial(_documented, requires_key=bool(services.api_keys)),
        tags={dialect.name: dialect.description for dialect in DIALECTS},
        schemas=[schema for dialect in DIALECTS for schema in dialect.schemas],
        title="VAE service",
        description=_DESCRIPTION,
        version=version("vae-service"),
        lifespan=_lifespan,
        routes=[
            *routes(services, [*model_api.ENDPOINTS, *admin.ENDPOINTS, *health.ENDPOINTS]),
            *(route for dialect in DIALECTS for route in routes(services, dialect.endpoints)),
            *(page.routes(root_path) if services.settings.page else ()),
            *docs.routes(),
        ],
        redirect_slashes=False,
        telemetry={
            "auto_configure": tracer_provider is None,
            "tracer_provider": tracer_provider,
            "tracing": tracing.enabled,
            "exclude": lambda scope: services.targets[route_path(scope["path"], root_path)].is_public,
            "operation_spans": False,
            "metrics": False,  # Prometheus has them
            "logs": False,
        },
    )
    _require_no_own_path(root_path, app.routes)
    app.state.services = services
    app.add_middleware(
        LifecycleMiddleware,
        request_timeout=services.limits.request_timeout_s,
        targets=services.targets,
        state=services.state,
        admission=services.admission,
        budget=services.budget,
        request_log=services.request_log,
        tracing=tracing,
        root_path=root_path,
    )
    if services.settings.cors_origins:
        app.add_middleware(
            CorsMiddleware,
            allow_origins=services.settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID", "X-Model", "X-Seed", "Server-Timing", "Retry-After"],
        )
    return app


def _documented(*, requires_key: bool) -> list[APIRouter]:
    """Return the routers of the OpenAPI document."""
    groups = [(model_api.ENDPOINTS, "model", requires_key), (health.ENDPOINTS, "operations", False)]
    if requires_key:
        groups.insert(1, (admin.ENDPOINTS, "operations", True))
    groups += [(dialect.endpoints, dialect.name, requires_key) for dialect in DIALECTS]
    return [documentation(endpoints, tag, requires_key=locked) for endpoints, tag, locked in groups]


def _require_no_own_path(root_path: str, routes: Iterable[BaseRoute]) -> None:
    """Refuse a root path with paths of the service below it: those of a proxy that removes it would be ambiguous."""
    for route in routes:
        path = getattr(route, "path", "")
        if root_path and f"{path}/".startswith(f"{root_path}/"):
            expected = "expected a prefix below which the service has no path of its own"
            raise SettingsError(f"root_path: {expected}, got {root_path!r} of {path}")


def build_services(settings: Settings, state: ServiceState, group: ProcessGroup) -> Services:
    """Build the objects of the service, each from those that it needs."""
    targets = Targets(route for dialect in DIALECTS for route in dialect.targets())
    limits, metrics = settings.limits, Metrics(targets.labels())
    request_log = RequestLog(metrics)
    api_keys, budget = ApiKeys(settings.keys()), MemoryBudget(limits)
    stored = read_model(settings.model)
    for warning in stored.warnings:
        log.warning(warning)
    engine = Engine(stored, settings, metrics, group.core_usage)
    return Services(
        settings=settings,
        limits=limits,
        metrics=metrics,
        request_log=request_log,
        state=state,
        targets=targets,
        api_keys=api_keys,
        budget=budget,
        codec_threads=CodecThreads(codec_threads(settings)),
        engine=engine,
        admission=AdmissionController(limits, state, api_keys, engine.check_capacity),
        reloader=ModelReloader(engine, settings, metrics, group.model_reloaded),
        exposition=health.shared_exposition(metrics, partial(update_gauges, metrics, request_log, engine, state)),
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    engine, settings = services.engine, services.settings
    services.codec_threads.start()
    chosen = {"settings": settings.model_dump(mode="json")}
    log.info("serving %s on %s", engine.loaded_model.identity, engine.device, extra=chosen)
    engine.start()
    yield
    await engine.close()
    services.codec_threads.close()
    services.request_log.flush()
