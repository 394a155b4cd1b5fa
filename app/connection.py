"""One caller's connection, on which an answer's head goes out together with its body, and a request's has an end.

uvicorn writes them one after the other. Each write wakes the caller, who finds half an answer and waits again; on a
busy machine that costs the service more than all that it does to make the two. And it keeps whatever is said before a
body, however long that gets, where neither key nor limit nor deadline is known yet.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.answers import problem
from app.calls import new_id
from app.errors import HeadTooLarge, Malformed, ServiceError

log = logging.getLogger(__name__)

LONGEST_HEAD = 2**16
"""Most bytes of a request line and its headers, and of what may stand between two pieces of a body, or after it."""

LINGER = 1.0
"""Seconds that a caller who is refused has to read why; what he goes on to say is left where it is."""


_OF_UPGRADES = (b"upgrade", b"http2-settings", b"connection")


class Connection(HttpToolsProtocol):
    """uvicorn's protocol on a `Gathering` transport; of what is no body it takes `LONGEST_HEAD` bytes at a time.

    A caller who does not finish a head within `patience` seconds is let go, as is one who takes nothing of his answers;
    later on a line it may take twice as long. Who asks for another protocol is answered in this one.
    """

    patience = 30.0

    _room = LONGEST_HEAD
    _amid_body = False
    _unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to serve who is at its other end."""
        gathering: Any = Gathering(transport, self.loop)
        super().connection_made(gathering)
        self._seen = self.cycle
        self._clock = self.loop.call_later(self.patience, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more."""
        self._clock.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes | memoryview) -> None:
        """Read on, never further than there is room, until it is known whether that was a body."""
        if len(data) <= self._room:
            self._room -= len(data)
            self._parse(data)
        elif self._room:
            said, room = memoryview(data), self._room
            self.data_received(said[:room])
            if not self.transport.is_closing():
                self.data_received(said[room:])
        else:
            self._refuse(HeadTooLarge(f"expected at most {LONGEST_HEAD} bytes that are no body, got more"))

    def on_headers_complete(self) -> None:
        """A head is whole: the next has all room again."""
        self._room = LONGEST_HEAD
        if not self._wants_another:
            self._amid_body = True
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Bodies are counted where their limit is known."""
        self._room = LONGEST_HEAD
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is whole."""
        self._amid_body = False
        if not self._wants_another:
            super().on_message_complete()

    def _parse(self, data: bytes | memoryview) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse(Malformed("expected a request of HTTP/1.1, got something else"))
        except httptools.HttpParserUpgrade as upgrade:
            if self._wants_another:
                self._parse_again(data[upgrade.args[0] :])

    @property
    def _wants_another(self) -> bool:
        """Whether the head asks for another protocol, at which the parser stops, as if no body came (RFC 9110, 7.8)."""
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def _parse_again(self, rest: bytes | memoryview) -> None:
        """The head without what asks for another protocol, and then what comes behind it."""
        line = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        headers = [b"%s: %s" % pair for pair in _without_upgrade(self.headers)]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._parse(b"\r\n".join([line, *headers, b"", b""]))
        self.data_received(rest)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _look(self) -> None:
        """Each head that is whole begins another cycle; looking for that now and then costs a request nothing."""
        before, self._unread = self._unread, self.transport.get_write_buffer_size()
        if self._unread and self._unread == before:
            self.transport.abort()
            return
        if not (self._answering or self.cycle is not self._seen):
            self.transport.close()  # where something is unread, once it is: hence another look
        self._seen = self.cycle
        self._clock = self.loop.call_later(self.patience, self._look)

    @property
    def _owed(self) -> bool:
        """Whether an answer is due, and not to one who comes before: else there is no place for it."""
        if self._amid_body:
            return not (self.cycle.response_started or self.pipeline)
        return not self._answering

    def _refuse(self, error: ServiceError) -> None:
        request_id = new_id()
        log.info("a caller is cut off: %s", error.detail, extra={"request_id": request_id})
        if not self._owed:
            self.transport.close()
            return
        if self._amid_body:  # for whoever works on it the caller has left
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        answer = problem(error, request_id)
        more = ((b"x-request-id", request_id.encode()), (b"connection", b"close"))
        headers = b"".join(b"%s: %s\r\n" % pair for pair in (*answer.raw_headers, *more))
        self.transport.pause_reading()
        self.transport.write(STATUS_LINE[error.status] + headers + b"\r\n" + bytes(answer.body))
        self.transport.write_eof()
        self.loop.call_later(LINGER, self.transport.close)


def _without_upgrade(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    options = b",".join(value for name, value in headers if name == b"connection").lower().split(b",")
    others = [option for option in map(bytes.strip, options) if option and option not in _OF_UPGRADES]
    kept = [pair for pair in headers if pair[0] not in _OF_UPGRADES]
    return [*kept, (b"connection", b", ".join(others))] if others else kept


class Gathering:
    """A transport that holds a piece back for what follows it in the same turn of the event loop."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, piece: bytes) -> None:
        """Send it, with what was held; else hold it."""
        if self._held:
            held, self._held = self._held, b""
            self._transport.writelines((held, piece))
        else:
            self._held = piece
            self._loop.call_soon(self._send)

    def write_eof(self) -> None:
        """Send what was held, and nothing more."""
        self._send()
        self._transport.write_eof()

    def close(self) -> None:
        """Send what was held, then close."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)
