"""OpenTelemetry spans for the stages of a request, as children of the span that FastAPI creates for the request.

Without OpenTelemetry's variables no request is traced, and no request costs anything for it.
"""

import os
import time

from opentelemetry import trace

from app.context import RequestContext


class Tracing:
    """Creates the spans; `provider` replaces OpenTelemetry's global one."""

    def __init__(self, provider: trace.TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("vae", tracer_provider=provider)
        self.enabled = (
            provider is not None
            or any(name.startswith("OTEL_") for name in os.environ)
            or not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        )
        """Whether requests may be traced: a provider exists, or OpenTelemetry's variables may create one."""

    def follows(self) -> bool:
        """Whether the current request is traced."""
        return self.enabled and trace.get_current_span().is_recording()

    def record(self, context: RequestContext) -> None:
        """Create the spans of a traced request, once, and set its id and its model on its own span."""
        if context.spans is None:
            return
        spans, context.spans = context.spans, None
        span = trace.get_current_span()
        span.set_attributes({"vae.request_id": context.request_id, "vae.model": context.model})
        now, epoch = time.monotonic(), time.time_ns()
        for stage, start, end in spans:
            began, ended = (epoch - int((now - moment) * 1e9) for moment in (start, end))
            self._tracer.start_span(stage, start_time=began).end(ended)
