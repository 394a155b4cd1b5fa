"""Transport and flow control of a connection: writes are coalesced, reading can be paused, closing loses no response.

uvicorn writes the head of a response and its body one after the other. Each write wakes the client, which finds half a
response and waits again; on a busy machine that costs more than the computation of the response.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

LINGER_SECONDS = 0.5
"""Seconds in which a client that is still sending can read the last response of a closed connection."""


class CoalescingTransport:
    """A transport that writes all pieces of one event-loop iteration together.

    `stop` discards all further input, and returns whether the client may still be sending. If so, the connection is
    closed in two steps (RFC 9112, 9.6): closing with unread bytes resets the connection, and the client may lose the
    response.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, stop: Callable[[], bool] = lambda: False
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._stop: Callable[[], bool] | None = stop
        self._pending = b""
        self._closing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, piece: bytes) -> None:
        """Write the piece together with a pending one; without one, keep it for the next piece."""
        if self._pending:
            pending, self._pending = self._pending, b""
            self._transport.writelines((pending, piece))
        elif not self._closing:
            self._pending = piece
            self._loop.call_soon(self._flush)

    def is_closing(self) -> bool:
        """Return whether `close` was called, or the connection is lost."""
        return self._closing or self._transport.is_closing()

    def close(self) -> None:
        """Write the pending piece, then close: at once, or after `LINGER_SECONDS` if the client is still sending."""
        self._flush()
        if self._closing or self._transport.is_closing():
            return
        self._closing = True
        if self._stop is not None and self._stop():
            self._transport.write_eof()
            self._transport.resume_reading()
            self._loop.call_later(LINGER_SECONDS, self._transport.close)
        else:
            self._transport.close()

    def lost(self) -> None:
        """Drop the reference to the protocol, so that both are freed without garbage collection."""
        self._stop = None

    def _flush(self) -> None:
        pending, self._pending = self._pending, b""
        if pending and not self._transport.is_closing():
            self._transport.write(pending)


class PausableFlow(FlowControl):
    """uvicorn's flow control; while it is held, the application does not resume reading."""

    held = False

    def hold(self, *, held: bool) -> None:
        """Pause reading and keep it paused, or let it resume."""
        self.held = held
        if held:
            self.pause_reading()

    def resume_reading(self) -> None:
        """Resume reading, unless it is held."""
        if self.read_paused and not self.held:
            super().resume_reading()


class ExpectingCycle(RequestResponseCycle):
    """A request that waits for 100 (Continue) before its body is sent (RFC 9110, 10.1.1).

    If the client gets a response instead, it may send the body or not. What follows on the connection is ambiguous, so
    the connection is closed.
    """

    async def send(self, message: ASGISendEvent) -> None:
        """Send a part of the response."""
        if self.waiting_for_100_continue:
            self.keep_alive = False
        await super().send(message)
