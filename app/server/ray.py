"""Ray Serve deployment of the service: `serve run app.server.ray:service`. Needs the extra `ray`.

Each replica, one for a GPU or a few CPU cores, builds the application from the VAE_* variables of its process. Ray
distributes the requests, starts replicas as requests queue, and replaces a replica after its device was lost.
"""

import asyncio

from fastapi import FastAPI
from pydantic import BaseModel, Field, NonNegativeFloat, PositiveInt
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from app.main import create_app
from app.observability.logs import configure_logging
from app.resources import largest_batch
from app.server.lost_body import LostBodyMiddleware
from app.server.process import configure_process
from app.settings import Settings

BODY_MARGIN_S = 1.0
"""Seconds within which the bodies of two requests from Ray's proxy may arrive in another order than the requests."""

BODY_SILENCE_S = 3.0
"""Seconds after which a body that has not begun to arrive from Ray's proxy is lost if no other has either."""


class RayOptions(BaseModel, extra="forbid"):
    """Options of `serve run app.server.ray:service`, as NAME=VALUE."""

    min_replicas: PositiveInt = Field(1, description="replicas without load")
    max_replicas: PositiveInt = Field(1, description="replicas under load")
    cpus: NonNegativeFloat = Field(1, description="CPU cores that a replica reserves")
    gpus: NonNegativeFloat = Field(0, description="GPUs that a replica reserves")


class Replica:
    """The class of a replica, for Ray's health checks; Ray keeps the application as `app`."""

    app: FastAPI

    async def check_health(self) -> None:
        """Wait for the warm-up, so that no request arrives earlier; raise once the device was lost."""
        engine = self.app.state.services.engine
        while engine.alive and not engine.ready:  # noqa: ASYNC110  # a thread sets no asyncio.Event
            await asyncio.sleep(0.05)
        if not engine.alive:
            raise RuntimeError("the device thread has stopped")


def build() -> FastAPI:
    """Build the application in the process of a replica."""
    settings = Settings()
    configure_logging(settings)
    configure_process(settings)
    app = create_app(settings)
    app.add_middleware(LostBodyMiddleware, margin_s=BODY_MARGIN_S, silence_s=BODY_SILENCE_S)
    return app


def service(options: RayOptions) -> serve.Application:
    """The deployment. A replica gets the requests of two batches: one on the device, one on the way."""
    settings = Settings()
    batch = largest_batch(settings, gpu=options.gpus > 0)
    deployment = serve.deployment(
        name="vae",
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
        autoscaling_config=AutoscalingConfig(
            min_replicas=options.min_replicas,
            max_replicas=options.max_replicas,
            target_ongoing_requests=batch,
        ),
        max_ongoing_requests=2 * batch,
        max_queued_requests=settings.max_queue_items,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        graceful_shutdown_timeout_s=settings.graceful_timeout_s,
    )
    return deployment(serve.ingress(build)(Replica)).bind()
