"""One caller's connection, on which an answer's head goes out together with its body, and a request's has an end.

uvicorn writes them one after the other. Each write wakes the caller, who finds half an answer and waits again; on a
busy machine that costs the service more than all that it does to make the two. And it keeps whatever is said before a
body, however long that gets, where neither key nor limit nor deadline is known yet.
"""

import asyncio
import logging
from random import getrandbits
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.answers import problem
from app.errors import HeadTooLarge

log = logging.getLogger(__name__)

LONGEST_HEAD = 2**16
"""Bytes of a request line and its headers; also of whatever else comes between two pieces of a body, or after it."""

LINGER = 1.0
"""Seconds that one who is refused amid his head has to read why; what he goes on to say is left where it is."""


class Connection(HttpToolsProtocol):
    """uvicorn's, on a `Gathering` transport, with room for so much besides bodies and no more.

    Who does not come to the end of a head in `patience` seconds is let go; the head of a later request may take twice
    as long.
    """

    patience = 30.0

    _room = LONGEST_HEAD

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
            super().data_received(data)  # type: ignore[arg-type]  # the parser takes both
        elif self._room:
            said, room = memoryview(data), self._room
            self.data_received(said[:room])
            if not self.transport.is_closing():
                self.data_received(said[room:])
        else:
            self._refuse()

    def on_headers_complete(self) -> None:
        """A head is whole: the next has all room again."""
        self._room = LONGEST_HEAD
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Bodies are counted where their limit is known."""
        self._room = LONGEST_HEAD
        super().on_body(body)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _look(self) -> None:
        """Each head that is whole begins another cycle; looking for that now and then costs a request nothing."""
        if self._answering or self.cycle is not self._seen:
            self._seen = self.cycle
            self._clock = self.loop.call_later(self.patience, self._look)
        else:
            self.transport.close()

    def _refuse(self) -> None:
        log.info("a caller is cut off after %d bytes that are no body", LONGEST_HEAD)
        if self._answering:
            self.transport.close()  # no place for a second answer
            return
        error = HeadTooLarge(f"the head of the request is larger than the {LONGEST_HEAD} bytes allowed")
        answer = problem(error, f"{getrandbits(128):032x}")
        headers = b"".join(b"%s: %s\r\n" % pair for pair in (*answer.raw_headers, (b"connection", b"close")))
        self.transport.pause_reading()
        self.transport.write(STATUS_LINE[error.status] + headers + b"\r\n" + bytes(answer.body))
        self.transport.write_eof()
        self.loop.call_later(LINGER, self.transport.close)


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
