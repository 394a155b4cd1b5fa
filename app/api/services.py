"""The objects of a running service, as one record: what endpoints, the server and tests get at."""

from dataclasses import dataclass

from app.codecs.threads import CodecThreads
from app.http.admission import AdmissionController
from app.http.auth import ApiKeys
from app.http.budget import MemoryBudget
from app.http.state import ServiceState
from app.http.targets import Targets
from app.inference.engine import Engine
from app.inference.reload import ModelReloader
from app.observability.metrics import Metrics
from app.observability.request_log import RequestLog
from app.settings import Limits, Settings
from app.single_flight import SingleFlight


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that `create_app` builds; `app.state.services` of the application."""

    settings: Settings
    limits: Limits
    metrics: Metrics
    request_log: RequestLog
    state: ServiceState
    targets: Targets
    api_keys: ApiKeys
    budget: MemoryBudget
    codec_threads: CodecThreads
    engine: Engine
    admission: AdmissionController
    reloader: ModelReloader
    exposition: SingleFlight[bytes]

    def update_gauges(self) -> None:
        """Write what was counted, and set the gauges that follow the state of the service."""
        update_gauges(self.metrics, self.request_log, self.engine, self.state)


def update_gauges(metrics: Metrics, request_log: RequestLog, engine: Engine, state: ServiceState) -> None:
    """Write what was counted, and set the gauges that follow the state of the service."""
    request_log.flush()
    ready = engine.ready and not state.draining
    metrics.ready.set(ready)
    metrics.workers.set(ready)
    metrics.queue_items.set(engine.queued_items)
    metrics.device_memory.set(engine.device.memory())
    metrics.count_dropped_log_lines()
