"""The same application on a Ray cluster: `serve run app.server.ray:service`, one replica for each GPU or few CPU cores.

Each replica builds the application from the VAE_* variables of its own process. Ray spreads the requests, starts
replicas as requests queue, and replaces those whose device has stopped; it needs the extra `ray`.
"""

import asyncio

from fastapi import FastAPI
from pydantic import BaseModel, Field, NonNegativeFloat, PositiveInt
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from app.inference.device import configure_torch
from app.main import create_app
from app.observability.logs import configure_logging
from app.resources import largest_batch
from app.server.lost_body import LostBodyMiddleware
from app.settings import Settings

BODY_MARGIN_S = 1.0
"""Seconds by which the bodies of two requests from Ray's proxy may arrive in another order than the requests."""

BODY_SILENCE_S = 3.0
"""Seconds after which a body that has not begun to arrive from Ray's proxy is lost if no other has either."""


class RayOptions(BaseModel, extra="forbid"):
    """What `serve run app.server.ray:service` takes as NAME=VALUE."""

    min_replicas: PositiveInt = Field(1, description="replicas at rest")
    max_replicas: PositiveInt = Field(1, description="replicas under load")
    cpus: NonNegativeFloat = Field(1, description="CPU cores that a replica reserves")
    gpus: NonNegativeFloat = Field(0, description="GPUs that a replica reserves")


class Replica:
    """What Ray asks of a replica besides the application, which it keeps as `app`."""

    app: FastAPI

    async def check_health(self) -> None:
        """Return when warm, so that no request comes earlier; raise once the device has stopped: Ray replaces it."""
        engine = self.app.state.services.engine
        while engine.alive and not engine.ready:  # noqa: ASYNC110  # a thread sets no asyncio.Event
            await asyncio.sleep(0.05)
        if not engine.alive:
            raise RuntimeError("the device thread has stopped")


def build() -> FastAPI:
    """The application, in the process of a replica."""
    settings = Settings()
    configure_logging(settings)
    configure_torch(settings)
    app = create_app(settings)
    app.add_middleware(LostBodyMiddleware, margin_s=BODY_MARGIN_S, silence_s=BODY_SILENCE_S)
    return app


def service(scale: RayOptions) -> serve.Application:
    """The deployment: a replica takes two batches' worth of requests, one on the device and one on its way."""
    settings = Settings()
    batch = largest_batch(settings, gpu=scale.gpus > 0)
    deployment = serve.deployment(
        name="vae",
        ray_actor_options={"num_cpus": scale.cpus, "num_gpus": scale.gpus},
        autoscaling_config=AutoscalingConfig(
            min_replicas=scale.min_replicas,
            max_replicas=scale.max_replicas,
            target_ongoing_requests=batch,
        ),
        max_ongoing_requests=2 * batch,
        max_queued_requests=settings.max_queue_items,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        graceful_shutdown_timeout_s=settings.graceful_timeout_s,
    )
    return deployment(serve.ingress(build)(Replica)).bind()
