"""Where a request enters and leaves: its id, deadline, disconnect, timing, metrics and log line.

Pure ASGI, so that a caller who leaves is noticed: the work for him is cancelled, wherever it is.
"""

import asyncio
import logging
import time
from collections.abc import Iterator
from functools import lru_cache
from string import punctuation
from typing import Any
from urllib.parse import quote

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.context import RequestContext, accepted_id
from app.errors import DeadlineExceeded, ServiceError, Unauthorized, Unavailable
from app.http.admission import AdmissionController, is_open
from app.http.problems import problem
from app.http.protocol.request_head import require_few_parameters, require_one_key
from app.observability.metrics import ENDPOINTS, Metrics
from app.observability.tracing import Tracing

log = logging.getLogger("app.access")

UNWATCHED = 0.05
"""Seconds until somebody looks how far a request is; most are answered by then, and looking costs."""

LEFT = 499
"""The status under which a caller who left is counted; he does not see it."""

LONGEST_PATH = 200
"""Characters of an unknown path that are logged."""


class LifecycleMiddleware:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, door: AdmissionController, metrics: Metrics, tracing: Tracing) -> None:
        self.app = app
        self.door = door
        self.metrics = metrics
        self.tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = RequestLifecycle(self, scope, receive, send)
        if is_open(scope["path"]):
            await exchange.run_open()
            return
        self.door.guests.add(exchange)
        try:
            await exchange.run()
        finally:
            self.door.guests.discard(exchange)
            self.door.held -= exchange.received
            self.door.reserve(exchange.context, 0)
            exchange.account()


class RequestLifecycle:
    """One request and its answer."""

    def __init__(self, edge: LifecycleMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self.edge, self.scope, self._receive, self._send = edge, scope, receive, send
        self.headers: dict[bytes, bytes] = dict(scope["headers"])  # ten times as fast to look up as starlette's
        self.started = time.monotonic()
        self.status = 0
        self.left = self.late = self.over = False
        self.heard = scope["method"] in ("GET", "HEAD")
        self.received = 0
        self.alarm: asyncio.TimerHandle | None = None
        self.watcher: asyncio.Task[None] | None = None
        request_id = accepted_id(self.headers.get(b"x-request-id", b"").decode("latin-1"))
        self.context = RequestContext(request_id, self.started + edge.door.patience)
        scope.setdefault("state", {})["context"] = self.context
        if edge.tracing.follows():
            self.context.spans = []

    async def run(self) -> None:
        """Let the request in, answer what goes wrong, and stop when the caller leaves."""
        self.loop, self.task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            self.admit()
            if self.heard:
                self.look_later()
            await self.edge.app(self.scope, self.receive, self.send)
        except ServiceError as error:
            await self.fail(error)
        except MemoryError:
            log.warning("no memory was left for a request", extra={"request_id": self.context.request_id})
            await self.fail(Unavailable("the service has no memory left for this request"))
        except ClientDisconnect:
            self.left = True
        except asyncio.CancelledError:
            if self.late:
                await self.fail(DeadlineExceeded("the body did not arrive within the request's deadline"))
            elif not self.left:
                await self.fail(Unavailable("the service has no more time for this request"))
            if not (self.left or self.late or self.over) or self.task is None or self.task.uncancel():
                raise
        except Exception:
            log.exception("unexpected failure", extra={"request_id": self.context.request_id})
            await self.fail(ServiceError("an unexpected failure; the log has it under the request id"))
        finally:
            self.unwatch()

    def admit(self) -> None:
        """Raise `ServiceError` for what is refused before the application sees it."""
        if len(self.headers) < len(self.scope["headers"]):
            require_one_key(self.scope["headers"])
        self.edge.door.admit(self.scope["path"], self.headers, self.context)
        require_few_parameters(self.scope["query_string"])

    async def run_open(self) -> None:
        """Answer a request that is neither counted nor refused."""
        try:
            require_few_parameters(self.scope["query_string"])
        except ServiceError as error:
            await self.fail(error)
        else:
            await self.edge.app(self.scope, self._receive, self.send)

    async def receive(self) -> Message:
        """The next part of the body, counted; who asks for it is stopped at the deadline if it does not come."""
        if self.alarm is None:
            self.look_later()
        message = await self._receive()
        size = len(message.get("body", b""))
        self.received += size
        self.edge.door.hold(size, self.received)
        if message["type"] == "http.request" and not message.get("more_body", False):
            self.heard = True
        return message

    async def send(self, message: Message) -> None:
        """Pass the answer on, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *self.common_headers()]
            self.status = message["status"]
        elif not message.get("more_body", False):
            self.unwatch()
            self.edge.tracing.tell(self.context)  # the request's own span ends with the answer
        await self._send(message)

    def common_headers(self) -> Iterator[tuple[bytes, bytes]]:
        """What every answer has, named in lower case as ASGI wants it."""
        yield b"x-request-id", self.context.request_id.encode()
        yield b"x-content-type-options", b"nosniff"
        if self.edge.door.parts():
            yield b"connection", b"close"
        if self.context.model:
            yield b"x-model", _as_header(self.context.model)
            yield b"cache-control", b"no-store"
        if self.context.stage_seconds:
            yield b"server-timing", self.context.server_timing().encode()

    async def fail(self, error: ServiceError) -> None:
        """Answer a problem, unless an answer has begun."""
        self.unwatch()
        if not self.status:
            await problem(error, self.context.request_id)(self.scope, self._receive, self.send)

    def look_later(self) -> None:
        """Look before long how far the request is, at the deadline at the latest."""
        self.alarm = self.loop.call_later(min(UNWATCHED, self.context.deadline - time.monotonic()), self.look)

    def look(self) -> None:
        """The answer takes its time: wait for the caller to leave beside it, or first for the rest of his body."""
        if self.heard:
            self.watcher = asyncio.create_task(self.wait_for_leaving())
        elif self.context.deadline > time.monotonic():
            self.look_later()
        else:
            self.late = True
            self.stop()

    async def wait_for_leaving(self) -> None:
        """Return when the connection is gone, having cancelled the work for it."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        self.stop()

    def cut(self) -> None:
        """The service ends before the work does."""
        self.over = True
        self.stop()

    def stop(self) -> None:
        """Cancel the work, wherever it is, for whatever comes first."""
        if self.task is not None and not self.task.cancelling():
            self.task.cancel()

    def unwatch(self) -> None:
        """The answer is on its way, or will not be: neither leaving nor the deadline matters any more."""
        for waiting in (self.alarm, self.watcher):
            if waiting is not None:
                waiting.cancel()

    def account(self) -> None:
        """Count and log the finished request."""
        self.edge.tracing.tell(self.context)
        seconds = time.monotonic() - self.started
        path = self.scope["path"]
        endpoint = path if path in ENDPOINTS else "other"
        status = LEFT if self.left else self.status
        metrics = self.edge.metrics
        metrics.requests[endpoint, str(status)].inc()
        metrics.request_seconds[endpoint].observe(seconds)
        for stage, spent in tuple(self.context.stage_seconds.items()):  # the device may still be adding
            metrics.stage_seconds[stage].observe(spent)
        log.info("%s %s %d", self.scope["method"], endpoint, status, extra=self.fields(seconds, status))

    def fields(self, seconds: float, status: int) -> dict[str, Any]:
        """What the log line tells besides its message."""
        stages = {f"{stage}_ms": round(spent * 1000, 3) for stage, spent in tuple(self.context.stage_seconds.items())}
        fields = {
            "request_id": self.context.request_id,
            "method": self.scope["method"],
            "status": status,
            "ms": round(seconds * 1000, 3),
            "bytes_in": self.received,
            **stages,
        }
        if self.scope["path"] not in ENDPOINTS and status != Unauthorized.status:  # a wrong key may be in it
            fields["path"] = self.strange_path()
        return fields

    def strange_path(self) -> str:
        """The path that is no endpoint, as URLs have it, so that it breaks no line, and without any key."""
        path = self.edge.door.without_keys(self.scope["path"])
        return quote(path[:LONGEST_PATH])[:LONGEST_PATH]


@lru_cache(maxsize=4)
def _as_header(model: str) -> bytes:
    """A model's name, which is a folder's, and may be in any script: percent-encoded but for plain ASCII."""
    return quote(model, safe=punctuation.replace("%", "")).encode()
