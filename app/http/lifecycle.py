"""Request lifecycle: request id, deadline, disconnect detection, response headers, metrics and the access log line.

This is pure ASGI middleware. It cancels the task of a request when the client disconnects or the deadline passes.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Iterable
from functools import lru_cache
from string import punctuation
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.context import OTHER, RequestContext, StageSpan, accepted_id, new_id
from app.errors import DeadlineExceeded, RequestTimeout, ServiceError, Unauthorized, Unavailable
from app.http.admission import AdmissionController
from app.http.budget import MemoryBudget
from app.http.problems import problem, routing_error
from app.http.protocol.head_rules import require_few_parameters
from app.http.root_path import without_root_path
from app.http.state import ServiceState
from app.http.targets import Targets
from app.observability.request_log import FinishedRequest, RequestLog
from app.observability.tracing import Tracing

log = logging.getLogger(__name__)

CHECK_INTERVAL = 0.05
"""Seconds between two checks of the requests in flight; one that began since the last check is left out, unless its
deadline has passed. Most requests finish before their first check, and disconnect detection needs a task."""

MAX_BODY_PAUSE = 5.0
"""Seconds without progress after which a body is dropped while connections or room for bodies are scarce."""

CLIENT_CLOSED_REQUEST = 499
"""Status in metrics and log of a request if the client disconnected before the response."""

_LISTS = (b"accept", b"content-encoding")
"""Header fields with a list as their value, which may be divided among several fields."""

_NO_SNIFFING = (b"x-content-type-options", b"nosniff")
_NO_STORE = (b"cache-control", b"no-store")
_CLOSE = (b"connection", b"close")


class LifecycleMiddleware:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        request_timeout: float,
        targets: Targets,
        state: ServiceState,
        admission: AdmissionController,
        budget: MemoryBudget,
        request_log: RequestLog,
        tracing: Tracing,
        root_path: str = "",
    ) -> None:
        self.app = app
        self.request_timeout = request_timeout
        self.targets = targets
        self.state = state
        self.admission = admission
        self.budget = budget
        self.request_log = request_log
        self.tracing = tracing
        self.root_path = root_path
        self._checks_progress = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if root_path := self.root_path or scope.get("root_path"):
            scope = without_root_path(scope, root_path)
        request = RequestLifecycle(self, scope, receive, send)
        if request.target.is_public:
            await request.run_public()
            return
        in_flight = self.state.in_flight
        in_flight.add(request)
        if not self._checks_progress:
            self._check_progress_later()
        try:
            self.admission.admit(scope, request.context, request.target)
            await self.app(scope, request.receive, request.send)
        except BaseException as failure:
            if not await request.handle(failure):
                raise
        finally:
            in_flight.discard(request)
            request.finish()

    def is_room_scarce(self) -> bool:
        """Whether other requests need the connection or the room of a request that makes no progress."""
        return self.budget.is_scarce() or self.admission.is_full()

    def _check_progress_later(self) -> None:
        self._checks_progress = True
        asyncio.get_running_loop().call_later(CHECK_INTERVAL, self._check_progress)

    def _check_progress(self) -> None:
        """Check all requests in flight. One timer serves all: most requests finish before their first check."""
        self._checks_progress, now = False, time.monotonic()
        for request in [*self.state.in_flight]:
            request.check_progress(now)
        if self.state.in_flight:
            self._check_progress_later()


class RequestLifecycle:
    """One request from its head to the end of its response."""

    __slots__ = (
        "_body_awaited_since",
        "_cancelled",
        "_client_disconnected",
        "_disconnect_task",
        "_is_ending",
        "_middleware",
        "_receive",
        "_received",
        "_scope",
        "_send",
        "_started",
        "_status",
        "_task",
        "_timeout",
        "body_complete",
        "context",
        "target",
    )

    def __init__(self, middleware: LifecycleMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._middleware, self._scope, self._receive, self._send = middleware, scope, receive, send
        headers = dict(scope["headers"])
        if len(headers) < len(scope["headers"]):
            headers = _combine(scope["headers"])
        self._started = time.monotonic()
        self._status = self._received = 0
        self._client_disconnected = self._cancelled = self._is_ending = False
        self._timeout: ServiceError | None = None
        self._body_awaited_since = math.inf
        self.body_complete = scope["method"] in ("GET", "HEAD")
        self._task = asyncio.current_task()
        self._disconnect_task: asyncio.Task[None] | None = None
        claimed = headers.get(b"x-request-id")
        request_id = new_id() if claimed is None else accepted_id(claimed.decode("latin-1"))
        spans: list[StageSpan] | None = [] if middleware.tracing.follows() else None
        self.target = middleware.targets[scope["path"]]
        self.context = RequestContext(
            request_id, self._started + middleware.request_timeout, spans=spans, headers=headers
        )
        scope.setdefault("state", {})["context"] = self.context

    async def run_public(self) -> None:
        """Answer a request of an operator, which is neither limited nor counted."""
        try:
            require_few_parameters(self._scope["query_string"])
            await self._middleware.app(self._scope, self._receive, self.send)
        except (ServiceError, HTTPException) as failure:
            await self._fail(self._as_service_error(failure))

    async def receive(self) -> Message:
        """Receive the next piece of the body, and count its bytes."""
        self._body_awaited_since = time.monotonic()
        message = await self._receive()
        self._body_awaited_since = math.inf
        if size := len(message.get("body", b"")):
            self._received += size
            self._middleware.budget.count_body(size, self._received)
        if not message.get("more_body", False) and message["type"] == "http.request":
            self.body_complete = True
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """Send a part of the response, with the headers that every response has."""
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *self._response_headers()]
            self._status = message["status"]
        elif not message.get("more_body", False):
            self._stop_watching()
            if self.context.spans is not None:
                self._middleware.tracing.record(self.context)  # before the span of the request ends
        return self._send(message)

    def cancel(self) -> None:
        """Cancel the request because the service shuts down."""
        self._cancelled = True
        self._cancel_task()

    def _response_headers(self) -> list[tuple[bytes, bytes]]:
        context, state = self.context, self._middleware.state
        headers = [(b"x-request-id", context.request_id.encode()), _NO_SNIFFING]
        if state.draining or (state.connections_to_shed and self in state.in_flight and state.take_shed()):
            headers.append(_CLOSE)
        if context.model:
            headers += ((b"x-model", _as_header(context.model)), _NO_STORE)
        if context.stage_seconds:
            headers.append((b"server-timing", context.server_timing()))
        return headers

    async def handle(self, failure: BaseException) -> bool:
        """Answer a failed request; returns whether the failure needs no other treatment."""
        match failure:
            case ClientDisconnect():
                self._client_disconnected = True
            case asyncio.CancelledError():
                return await self._handle_cancellation()
            case MemoryError():
                log.warning("no memory was left for a request", extra={"request_id": self.context.request_id})
                await self._fail(Unavailable("the service has no memory left for this request"))
            case Exception():
                await self._fail(self._as_service_error(failure))
            case _:
                return False
        return True

    async def _handle_cancellation(self) -> bool:
        """Answer a cancelled request; returns whether this object has cancelled it."""
        if self._timeout is not None:
            await self._fail(self._timeout)
        elif not self._client_disconnected:
            await self._fail(Unavailable("the service is shutting down"))
        cancelled_here = self._client_disconnected or self._timeout is not None or self._cancelled
        return cancelled_here and self._task is not None and not self._task.uncancel()

    def _as_service_error(self, failure: Exception) -> ServiceError:
        if isinstance(failure, ServiceError):
            return failure
        if isinstance(failure, HTTPException):
            error = routing_error(failure, self._scope["path"], self._scope["method"])
            if error is not None:
                return error
        log.error("unexpected failure", extra={"request_id": self.context.request_id}, exc_info=failure)
        return ServiceError("an unexpected failure; the log has it under the request id")

    async def _fail(self, error: ServiceError) -> None:
        """Send the error in the form of the dialect, unless a response has started."""
        self._stop_watching()
        if not self._status:
            await problem(error, self.context.request_id, self.target.error_form)(self._scope, self._receive, self.send)

    def check_progress(self, now: float) -> None:
        """Watch for a disconnect once the body is complete; until then enforce the time limits of the body."""
        if self._is_ending or self._disconnect_task is not None:
            return
        if not self.body_complete and self.context.deadline <= now:
            self._time_out(DeadlineExceeded("the body did not arrive within the request's deadline"))
        elif now - self._started < CHECK_INTERVAL:
            return
        elif self.body_complete:
            self._disconnect_task = asyncio.create_task(self._wait_for_disconnect())
        elif now - self._body_awaited_since > MAX_BODY_PAUSE and self._middleware.is_room_scarce():
            text = f"the body made no progress for {MAX_BODY_PAUSE:g} s while others needed its room"
            self._time_out(RequestTimeout(text))

    def _time_out(self, error: ServiceError) -> None:
        """Stop waiting for the body, and answer with the error."""
        self._timeout = error
        self._cancel_task()

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._client_disconnected = True
        self._cancel_task()

    def _cancel_task(self) -> None:
        """Cancel the work for the request, unless it is being cancelled already."""
        if self._task is not None and not self._task.cancelling():
            self._task.cancel()

    def _stop_watching(self) -> None:
        """End the checks of the progress and disconnect detection."""
        self._is_ending = True
        if self._disconnect_task is not None:
            self._disconnect_task.cancel()

    def finish(self) -> None:
        """Release what the request has used, and record its end."""
        self._stop_watching()
        middleware, context, target = self._middleware, self.context, self.target
        middleware.budget.release(context, self._received)
        if context.spans is not None:
            middleware.tracing.record(context)
        status = CLIENT_CLOSED_REQUEST if self._client_disconnected else self._status
        is_logged = target.endpoint == OTHER and status != Unauthorized.status  # the path may contain a wrong key
        record = FinishedRequest(
            context.request_id,
            self._scope["method"],
            target.dialect,
            target.endpoint,
            status,
            time.time(),
            time.monotonic() - self._started,
            dict(context.stage_seconds),  # a copy: the device may still add to it
            self._received,
            self._scope["path"] if is_logged else None,
        )
        middleware.request_log.add(record)


def _combine(fields: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return repeated header fields as one: the values of lists joined (RFC 9110, 5.3), of others the first."""
    headers: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in _LISTS and name in headers:
            headers[name] += b"," + value
        else:
            headers.setdefault(name, value)
    return headers


@lru_cache(maxsize=4)
def _as_header(model: str) -> bytes:
    """Return a model's name as a header value: any character but visible ASCII is percent-encoded."""
    return quote(model, safe=punctuation.replace("%", "")).encode()
