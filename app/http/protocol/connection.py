"""One connection: its requests are parsed and answered one after the other, and what waits is bounded.

uvicorn parses and keeps all that arrives, however many requests that is, and refuses in plain text. This protocol
parses nothing while a request is unanswered, and refuses with problem details. All else is uvicorn's.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.context import new_id
from app.errors import ServiceError
from app.http.problems import problem
from app.http.protocol.flow_control import ExpectingCycle, ReadingFlow
from app.http.protocol.pool import ConnectionPool
from app.http.protocol.request_head import Headers
from app.http.protocol.request_reader import RequestReader
from app.http.protocol.transport import CoalescingTransport

log = logging.getLogger(__name__)

MAX_WAITING = 2**16
"""Bytes behind an unanswered request beyond which no more are read; what one read brings comes on top."""

_GOT = ", got "
"""What stands in a detail between the text of this service and the text of the client."""

TURN = 0.002
"""Seconds of parsing after which other connections have their turn."""


class HttpConnection(HttpToolsProtocol):
    """uvicorn's protocol around a `RequestReader`.

    The connection is closed where a head is not complete within `patience` seconds, or the client reads nothing of a
    response; after the first request that may take twice as long.
    """

    patience = 30.0

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        pool: ConnectionPool | None = None,
        count_rejected: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state)
        self.parser = None  # type: ignore[assignment]  # the reader has its own
        self._reader = RequestReader(self)
        self._pool = pool or ConnectionPool()
        self._count_rejected = count_rejected
        self._idle = self._pool.idle
        self._buffer = bytearray()
        self._refused = self._scheduled = False
        self._unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to serve the client."""
        gathering: Any = CoalescingTransport(transport, self.loop, self._stop)
        super().connection_made(gathering)
        self.flow = self._flow = ReadingFlow(gathering)
        self._seen = self.cycle
        self._clock = self.loop.call_later(self.patience, self._look)
        self._pool.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Free what is held; no reference cycle is left that would wait for a garbage collection."""
        self._clock.cancel()
        self._pool.remove(self)
        self._refused, self._buffer = True, bytearray()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._reader.close()
        transport: Any = self.transport
        transport.lost()

    def data_received(self, data: bytes) -> None:
        """Parse what may be parsed now, and keep the rest."""
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        if self._buffer:
            self._buffer += data
            if not self._scheduled:
                self._go_on()
        elif (used := self._parse(data)) < len(data):
            self._buffer += memoryview(data)[used:]
            self._regulate()

    def _parse(self, data: bytes | bytearray) -> int:
        """Parse up to the end of a request, or for the time of a turn; the number of bytes that are done with."""
        size, place, until = len(data), 0, 0.0
        while place < size:
            if self._refused:
                return size
            if self._answering and not self._reader.amid_body:
                break
            try:
                step = self._reader.step(data, place)
            except ServiceError as error:
                self._refuse(error)
                return size
            if not step:
                break
            place += step
            if place < size:
                now = self.loop.time()
                if until and now > until:
                    self._schedule()
                    break
                until = until or now + TURN
        return place

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Parse on where the last turn ended, or the last request."""
        self._scheduled = False
        buffer = self._buffer
        del buffer[: self._parse(buffer)]
        if not self.transport.is_closing():
            self._regulate()

    def _regulate(self) -> None:
        """Read on, unless too much waits already, here or for the application."""
        self._flow.held = bool(self._buffer) and (self._scheduled or len(self._buffer) > MAX_WAITING)
        if self._flow.held:
            self._flow.pause_reading()
        elif not (self._answering and len(self.cycle.body) > HIGH_WATER_LIMIT):
            self._flow.resume_reading()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    # The reader's events

    def on_request(
        self, method: str, path: bytes, query: bytes, headers: Headers, old: bool, expects: bool, keep_alive: bool
    ) -> None:
        """Let the application answer a request, whose body may still be to come."""
        decoded = path.decode()
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.0" if old else "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "method": method,
            "root_path": self.root_path,
            "path": self.root_path + (unquote(decoded) if "%" in decoded else decoded),
            "raw_path": self.root_path.encode() + path,
            "query_string": query,
            "headers": headers,
            "state": self.app_state.copy(),
        }
        self.cycle = (ExpectingCycle if expects else RequestResponseCycle)(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expects,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )
        self._idle.pop(self, None)
        self._start_asgi_task(self.cycle, self.app)

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body for the application; bodies are counted where their limit is known."""
        if not self.cycle.response_complete:
            self.cycle.body += body
            if len(self.cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            self.cycle.message_event.set()

    def on_end(self) -> None:
        """Tell the application that the body is complete."""
        self.cycle.more_body = False
        self.cycle.message_event.set()

    def on_response_complete(self) -> None:
        """Wait for the next request, or go on with it where it has come already."""
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self._idle[self] = None
            self.flow.resume_reading()
            if self._buffer:
                self._schedule()
            else:
                handler = self.timeout_keep_alive_handler
                self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, handler)

    # The end

    def evict(self) -> None:
        """Close the connection between two requests."""
        idle = not (self._reader.amid_body or self._buffer)
        self.transport.close() if idle and not self.transport.get_write_buffer_size() else self.abort()

    def abort(self) -> None:
        """Close the connection at once; what the client has not read by now is lost."""
        self.transport.abort()

    def _stop(self) -> bool:
        """Parse nothing more; whether the client may still be sending."""
        sending = self._refused or bool(self._buffer) or self._reader.amid_body
        self._refused, self._buffer = True, bytearray()
        return sending

    def _look(self) -> None:
        """Close what makes no progress; each request has another cycle."""
        before, self._unread = self._unread, self.transport.get_write_buffer_size()
        if self._unread and self._unread == before:
            self.transport.abort()
            return
        if not (self._answering or self.cycle is not self._seen):
            self.transport.close()  # after what is unread, hence another look
        self._seen = self.cycle
        self._clock = self.loop.call_later(self.patience, self._look)

    def _refuse(self, error: ServiceError) -> None:
        """Answer what cannot be parsed with a problem, where no other response is due, and close."""
        amid_body, self._refused, self._buffer = self._reader.amid_body, True, bytearray()
        if self._count_rejected is not None:
            self._count_rejected(error.status)
        request_id = new_id()
        expected = error.detail.partition(_GOT)[0]  # what came may hold a key
        log.info("refused a request: %s", expected, extra={"request_id": request_id, "status": error.status})
        if amid_body and self.cycle.response_started:
            self.cycle.keep_alive = False
            if self.cycle.response_complete:
                self.transport.close()
            return
        if amid_body:  # to the application the client has left
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        answer = problem(error, request_id)
        more = ((b"x-request-id", request_id.encode()), (b"connection", b"close"))
        headers = b"".join(b"%s: %s\r\n" % field for field in (*answer.raw_headers, *more))
        self.transport.write(STATUS_LINE[error.status] + headers + b"\r\n" + bytes(answer.body))
        self.transport.close()
