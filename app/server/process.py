"""Process-wide settings of a serving process, in one place: libraries' environment, limits and threads."""

import os

from prometheus_client import values

from app.codecs.images import configure_pillow_limits
from app.inference.device import configure_torch
from app.settings import Settings


def configure_process(settings: Settings, worker: int | None = None) -> None:
    """Configure the libraries of this process, before it creates the application; a second call does no harm.

    A worker keeps its counts in files under its number, in the folder that the supervisor has set.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    if worker is not None:
        values.ValueClass = values.MultiProcessValue(lambda: worker)  # type: ignore[no-untyped-call]
    configure_pillow_limits()
    configure_torch(settings)
