"""One request on a connection and its response: the `receive` and `send` of ASGI.

The head of a response is sent together with the first piece of its body: each write wakes the client, which would find
half a response and wait again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

log = logging.getLogger(__name__)

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_NO_BODY = (204, 304)

Message = Any
Application = Callable[[Any, Any, Any], Awaitable[None]]


class RequestCycle:
    """A request from the end of its head to the end of its response.

    `expects_continue` means that the client waits for 100 (Continue) before it sends the body (RFC 9110, 10.1.1). If it
    gets a response instead, it may send the body or not. What follows on the connection is ambiguous, so the connection
    is closed. `completed` is called at the end of the response. `default_headers` are those of every response, such as
    Date (RFC 9110, 6.6.1).
    """

    __slots__ = (
        "_body_bytes_left",
        "_completed",
        "_default_headers",
        "_flow",
        "_head",
        "_is_chunked",
        "_is_new",
        "_loop",
        "_pieces",
        "_scope",
        "_transport",
        "_waiter",
        "_waits_for_continue",
        "body_size",
        "disconnected",
        "keep_alive",
        "more_body",
        "response_complete",
        "response_started",
    )

    def __init__(
        self,
        scope: dict[str, Any],
        transport: asyncio.Transport,
        flow: FlowControl,
        loop: asyncio.AbstractEventLoop,
        completed: Callable[[], None],
        default_headers: Sequence[tuple[bytes, bytes]],
        *,
        keep_alive: bool,
        expects_continue: bool,
    ) -> None:
        self._scope, self._transport, self._flow, self._loop = scope, transport, flow, loop
        self._completed = completed
        self._default_headers = default_headers
        self.keep_alive = keep_alive
        self._waits_for_continue = expects_continue
        self._pieces: list[bytes] = []  # of the body, which the application has not received
        self.body_size = 0  # of the pieces
        self.more_body = True
        self._is_new = False  # whether there is something to receive
        self._waiter: asyncio.Future[None] | None = None
        self._head = b""  # of the response, until it is sent
        self._body_bytes_left = 0
        self._is_chunked = self.disconnected = self.response_started = self.response_complete = False

    async def run(self, app: Application) -> None:
        """Run the application, and close the connection if it does not complete the response."""
        try:
            await app(self._scope, self.receive, self.send)
        except asyncio.CancelledError:
            pass  # the service exits, although the client has not read the response
        except BaseException as failure:  # the connection must not wait for a response that never comes
            log.exception("the application failed", exc_info=failure)
        if not (self.response_complete or self.disconnected):
            self._transport.close()
        self._completed = _nothing  # the connection refers to this object

    def add_body(self, piece: bytes, *, is_last: bool) -> None:
        """Keep a piece of the body for the application."""
        self.more_body = self.more_body and not is_last
        if not self.response_complete:
            self._pieces.append(piece)
            self.body_size += len(piece)
            self.set()

    @property
    def is_http_1_1(self) -> bool:
        """Whether the client understands interim responses."""
        return bool(self._scope["http_version"] == "1.1")

    def disconnect(self) -> None:
        """Let `receive` report that the client has disconnected."""
        self.disconnected = True
        self.set()

    @property
    def message_event(self) -> "RequestCycle":
        """This object, on which uvicorn calls `set` after it has changed `disconnected`."""
        return self

    def set(self) -> None:
        """Wake `receive`, because the request has changed."""
        self._is_new = True
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
            self._waiter = None

    async def receive(self) -> Message:
        """Receive a piece of the body, and after the last one the end of the connection or of the response."""
        if self._waits_for_continue and not self._transport.is_closing():
            self._transport.write(_CONTINUE)
            self._waits_for_continue = False
        if not (self.disconnected or self.response_complete):
            if self._flow.read_paused:
                self._flow.resume_reading()
            if not self._is_new:
                self._waiter = self._loop.create_future()
                await self._waiter
            self._is_new = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        pieces, self._pieces, self.body_size = self._pieces, [], 0
        return {"type": "http.request", "body": b"".join(pieces), "more_body": self.more_body}

    async def send(self, message: Message) -> None:
        """Send a part of the response."""
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if self.disconnected:
            return
        if self.response_started:
            self._send_body(message.get("body", b""), more=message.get("more_body", False))
        else:
            self._start_response(message["status"], message["headers"])

    def _start_response(self, status: int, headers: Any) -> None:
        if self._waits_for_continue:
            self.keep_alive = self._waits_for_continue = False
        fields = dict(headers)
        length, closes = fields.get(b"content-length"), b"close" in fields.get(b"connection", b"").lower()
        lines = [b"%s: %s\r\n" % field for field in (*self._default_headers, *headers)]
        self.keep_alive = self.keep_alive and not closes
        if not (self.keep_alive or closes):
            lines.append(b"connection: close\r\n")
        if length is None and status not in _NO_BODY and self._scope["method"] != "HEAD":
            self._is_chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
            raise ValueError("a header field of the response contains a line end")
        self._body_bytes_left = int(length or 0)
        self._head = b"".join((STATUS_LINE[status], head, b"\r\n"))
        self.response_started = True

    def _send_body(self, body: bytes, *, more: bool) -> None:
        if self.response_complete:
            raise RuntimeError("the response is already complete")
        if self._scope["method"] == "HEAD":
            body, self._body_bytes_left = b"", 0
        elif self._is_chunked:
            body = b"".join((b"%x\r\n%s\r\n" % (len(body), body) if body else b"", b"" if more else b"0\r\n\r\n"))
        else:
            self._body_bytes_left -= len(body)
        if self._body_bytes_left < 0 or (self._body_bytes_left and not more):
            raise RuntimeError("the body of the response has another length than Content-Length")
        head, self._head = self._head, b""
        if head:
            self._transport.writelines((head, body))
        elif body:
            self._transport.write(body)
        if not more:
            self._complete()

    def _complete(self) -> None:
        self.response_complete = True
        self._pieces, self.body_size = [], 0  # of a body that the application has not received
        self.set()
        if not self.keep_alive:
            self._transport.close()
        self._completed()


def _nothing() -> None:
    """Do nothing after the end of the application."""
