"""An engine without HTTP around it."""

import time
from contextlib import asynccontextmanager

from app.context import RequestContext
from app.inference.engine import Engine
from app.observability.metrics import Metrics
from app.settings import Settings
from model.formats import read_model
from tests.support.apps import until


def context() -> RequestContext:
    return RequestContext("id", time.monotonic() + 60)


@asynccontextmanager
async def running_engine(folder, device, *, metrics=None, core_usage=None, compile_model=None, **options):
    settings = Settings(model=folder, device=device, threads=1, **options)
    extra = {"compile_model": compile_model} if compile_model else {}
    engine = Engine(read_model(folder), settings, metrics or Metrics(), core_usage, **extra)
    engine.start()
    try:
        await until(lambda: engine.ready)
        yield engine
    finally:
        await engine.close()
