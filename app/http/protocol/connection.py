"""HTTP/1.1 connection: uvicorn's protocol with one request at a time, bounded buffers and problem details.

uvicorn parses and buffers everything that arrives, and rejects in plain text. This protocol parses nothing while a
request has no complete response, and rejects with problem details. The rest is uvicorn's.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from app.context import new_id
from app.errors import ServiceError
from app.http.problems import problem
from app.http.protocol.cycle import RequestCycle
from app.http.protocol.half_close import DisconnectProbe
from app.http.protocol.head_rules import Headers
from app.http.protocol.pool import ConnectionPool
from app.http.protocol.request_reader import RequestReader
from app.http.protocol.transport import LingeringTransport, PausableFlow

log = logging.getLogger(__name__)

MAX_PIPELINED_BYTES = 2**16
"""Bytes buffered behind an unanswered request from which reading pauses; one read may exceed it."""

_GOT = ", got "
"""Separator between the service's text and the client's text in a detail."""

MAX_PARSE_SECONDS = 0.002
"""Seconds of parsing after which the event loop serves other connections."""


class HttpConnection(HttpToolsProtocol):
    """uvicorn's protocol around a `RequestReader`.

    The connection is closed if the head of a request is not complete within `header_timeout` seconds, or if the client
    reads nothing of a response for as long. After the first request it may take up to twice as long.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        pool: ConnectionPool | None = None,
        count_rejected: Callable[[int], None] | None = None,
        header_timeout: float = 30.0,
    ) -> None:
        super().__init__(config, server_state, app_state)
        self.cycle: RequestCycle = None  # type: ignore[assignment]  # until the first request, as in uvicorn
        self.parser = None  # type: ignore[assignment]  # the request reader has a parser
        self._reader = RequestReader(self)
        self._pool = pool or ConnectionPool()
        self._count_rejected = count_rejected
        self._header_timeout = header_timeout
        self._idle = self._pool.idle
        self._buffer = bytearray()
        self._is_discarding = self._scheduled = False
        self._unsent = 0
        self._idle_since = 0.0  # on the clock of the loop, since the last response
        self._probe: DisconnectProbe | None = None  # once the client has closed its half of the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to serve the client."""
        lingering: Any = LingeringTransport(transport, self.loop, self._stop_parsing)
        super().connection_made(lingering)
        self.flow = self._flow = PausableFlow(lingering)
        self._scope = {  # of every request
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "root_path": self.root_path,
        }
        self._last_cycle = self.cycle
        self._timer = self.loop.call_later(self._header_timeout, self._check_progress)
        self._pool.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection's objects without a reference cycle that only garbage collection would free."""
        self._timer.cancel()
        if self._probe is not None:
            self._probe.stop()
            self._probe = None
        self._pool.remove(self)
        self._is_discarding, self._buffer = True, bytearray()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._reader.close()
        transport: Any = self.transport
        transport.lost()

    def data_received(self, data: bytes) -> None:
        """Parse as much as possible now, and buffer the rest."""
        if self._buffer:
            self._buffer += data
            if not self._scheduled:
                self._parse_buffer()
        elif (used := self._parse(data)) < len(data):
            self._buffer += memoryview(data)[used:]
            self._regulate_reading()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep a half-closed connection for responses to complete requests; returns whether any are to come."""
        if self._probe is None and self._expects_response():
            self._probe = DisconnectProbe(self.transport, self.loop, self._may_send_interim)
            self._flow.hold(held=True)
        return self._probe is not None

    def _expects_response(self) -> bool:
        """Whether a request that the client has sent completely waits for its response."""
        if self._is_discarding:
            return False
        return self._scheduled or (self._is_answering and not self._reader.in_body)

    def _may_send_interim(self) -> bool:
        """Whether a response of HTTP/1.1 is due, and no part of it has been sent."""
        return self._is_answering and not self.cycle.response_started and self.cycle.is_http_1_1

    def _parse(self, data: bytes | bytearray) -> int:
        """Parse up to the end of a request, or for `MAX_PARSE_SECONDS`; returns the number of parsed bytes."""
        size, position, until = len(data), 0, 0.0
        while position < size:
            if self._is_discarding:
                return size
            cycle = self.cycle
            if cycle is not None and not cycle.response_complete and not self._reader.in_body:
                break  # the response to the previous request is not complete
            try:
                step = self._reader.step(data, position)
            except ServiceError as error:
                self._reject(error)
                return size
            if not step:
                break
            position += step
            if position < size:
                now = self.loop.time()
                if until and now > until:
                    self._schedule()
                    break
                until = until or now + MAX_PARSE_SECONDS
        return position

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._parse_buffer)

    def _parse_buffer(self) -> None:
        """Continue to parse the buffered bytes."""
        self._scheduled = False
        buffer = self._buffer
        del buffer[: self._parse(buffer)]
        if self._probe is not None:
            self._close_unless_expected()
        elif not self.transport.is_closing():
            self._regulate_reading()

    def _close_unless_expected(self) -> None:
        """Close a half-closed connection without a response to come."""
        if not self._expects_response():
            self.transport.close()

    def _regulate_reading(self) -> None:
        """Read, unless too many bytes are buffered here or for the application."""
        held = bool(self._buffer) and (self._scheduled or len(self._buffer) > MAX_PIPELINED_BYTES)
        self._flow.hold(held=held)
        if not held and not (self._is_answering and self.cycle.body_size > HIGH_WATER_LIMIT):
            self._flow.resume_reading()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered, or a part of a response has not been sent."""
        return self._is_answering or self.transport.get_write_buffer_size() > 0

    # Events of the request reader

    def on_request(
        self, method: str, path: bytes, query: bytes, headers: Headers, old: bool, expects: bool, keep_alive: bool
    ) -> None:
        """Start the application for a request; the body may still arrive."""
        decoded = path.decode()
        scope = {
            **self._scope,
            "http_version": "1.0" if old else "1.1",
            "method": method,
            "path": self.root_path + (unquote(decoded) if "%" in decoded else decoded),
            "raw_path": self.root_path.encode() + path,
            "query_string": query,
            "headers": headers,
            "state": self.app_state.copy(),
        }
        self.cycle = RequestCycle(
            scope,
            self.transport,
            self._flow,
            self.loop,
            self.on_response_complete,
            self.server_state.default_headers,
            keep_alive=keep_alive,
            expects_continue=expects,
        )
        self._idle.pop(self, None)
        task = self.loop.create_task(self.cycle.run(self.app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def on_body(self, body: bytes, *, is_last: bool = False) -> None:
        """Buffer a piece of the body for the application, which counts the bytes."""
        self.cycle.add_body(body, is_last=is_last)
        if self.cycle.body_size > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def on_end(self) -> None:
        """Mark the body as complete."""
        self.cycle.add_body(b"", is_last=True)

    def on_response_complete(self) -> None:
        """Wait for the next request, or parse it if it has arrived."""
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self._idle[self] = None
            self._idle_since = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._check_idle()
            if self._flow.read_paused:
                self._flow.resume_reading()
            if self._buffer:
                self._schedule()
            elif self._probe is not None:
                self.transport.close()

    # Closing

    def _check_idle(self) -> None:
        """Close the connection if it is idle for too long. One timer serves all its requests."""
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        has_part_of_head = bool(self._buffer) and not self._reader.in_body
        if self not in self._idle or has_part_of_head:
            left = self.timeout_keep_alive  # a request is under way
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self._check_idle)
        else:
            self.transport.close()

    def evict(self) -> None:
        """Close the connection between two requests."""
        idle = not (self._reader.in_body or self._buffer)
        if idle and not self.transport.get_write_buffer_size():
            self.transport.close()
        else:
            self.abort()

    def abort(self) -> None:
        """Close the connection at once; the client loses what it has not read."""
        self.transport.abort()

    def _stop_parsing(self) -> bool:
        """Discard all further input; returns whether the client may still be sending."""
        sending = self._probe is None and (self._is_discarding or bool(self._buffer) or self._reader.in_body)
        self._is_discarding, self._buffer = True, bytearray()
        return sending

    def _check_progress(self) -> None:
        """Close the connection if it has made no progress since the last check; each request has a cycle of its own."""
        before, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        if self._unsent and self._unsent == before:
            self.transport.abort()
            return
        if not (self._is_answering or self.cycle is not self._last_cycle):
            self.transport.close()  # after the unsent bytes, hence another check
        self._last_cycle = self.cycle
        self._timer = self.loop.call_later(self._header_timeout, self._check_progress)

    def _reject(self, error: ServiceError) -> None:
        """Send problem details for bytes that are rejected, unless another response is pending, and close."""
        in_body, self._is_discarding, self._buffer = self._reader.in_body, True, bytearray()
        if self._count_rejected is not None:
            self._count_rejected(error.status)
        request_id = new_id()
        expected = error.detail.partition(_GOT)[0]  # the rest may contain a key
        log.info("rejected a request: %s", expected, extra={"request_id": request_id, "status": error.status})
        if in_body and self.cycle.response_started:
            self.cycle.keep_alive = False
            if self.cycle.response_complete:
                self.transport.close()
            return
        if in_body:  # the application sees a disconnect
            self.cycle.disconnect()
        answer, always = problem(error, request_id), self.server_state.default_headers
        more = ((b"x-request-id", request_id.encode()), (b"connection", b"close"))
        headers = b"".join(b"%s: %s\r\n" % field for field in (*always, *answer.raw_headers, *more))
        self.transport.write(STATUS_LINE[error.status] + headers + b"\r\n" + bytes(answer.body))
        self.transport.close()
