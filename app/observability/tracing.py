"""What a request spent in each stage, as OpenTelemetry spans under the one that FastAPI makes for the request.

Without OpenTelemetry's variables nothing is followed, and a request costs no more than the question whether it is.
"""

import time

from opentelemetry import trace

from app.context import RequestContext

_NAMES = {"infer": "device"}


class Tracing:
    """Spans for the laps of a call; `provider` stands in for OpenTelemetry's global one."""

    def __init__(self, provider: trace.TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("vae", tracer_provider=provider)

    def follows(self) -> bool:
        """Whether the current request has a span that is recorded."""
        return trace.get_current_span().is_recording()

    def tell(self, context: RequestContext) -> None:
        """A span for each lap of a call that is followed, once; its id and its model go with the request's own span."""
        if context.spans is None:
            return
        spans, context.spans = context.spans, None
        span = trace.get_current_span()
        span.set_attributes({"vae.request_id": context.request_id, "vae.model": context.model})
        now, epoch = time.monotonic(), time.time_ns()
        for stage, start, end in spans:
            began, ended = (epoch - int((now - moment) * 1e9) for moment in (start, end))
            self._tracer.start_span(_NAMES.get(stage, stage), start_time=began).end(ended)
