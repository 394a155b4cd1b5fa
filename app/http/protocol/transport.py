"""Transport and flow control of a connection: reading can be paused, and closing loses no response."""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl

LINGER_SECONDS = 0.5
"""Seconds in which a client that is still sending can read the last response of a closed connection."""


class LingeringTransport:
    """A transport that closes the connection in two steps if the client may still be sending (RFC 9112, 9.6).

    Closing with unread bytes resets the connection, and the client may lose the response. `stop` discards all further
    input, and returns whether the client may still be sending.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, stop: Callable[[], bool] = lambda: False
    ) -> None:
        self._transport = transport
        self.write, self.writelines = transport.write, transport.writelines  # without a call in between
        self._loop = loop
        self._stop: Callable[[], bool] | None = stop
        self._closing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Return whether `close` was called, or the connection is lost."""
        return self._closing or self._transport.is_closing()

    def close(self) -> None:
        """Close the connection: at once, or after `LINGER_SECONDS` if the client is still sending."""
        if self.is_closing():
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
