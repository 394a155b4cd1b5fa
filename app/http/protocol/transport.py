"""A transport that sends small pieces together and closes without destroying the last response.

uvicorn writes the head of a response and its body one after the other. Each write wakes the client, which finds half a
response and waits again; on a busy machine that costs more than computing the response.
"""

import asyncio
from collections.abc import Callable
from typing import Any

LINGER = 0.5
"""Seconds in which a client that is still sending can read the last response of a closed connection."""


class CoalescingTransport:
    """A transport that holds a piece back for what follows it in the same turn of the event loop.

    `stop` tells the reader to discard what comes from now on, and returns whether the client may still be sending. Then
    the connection is closed in two steps (RFC 9112, 9.6): a close with unread bytes resets the connection, and the
    client may lose the response.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, stop: Callable[[], bool] = lambda: False
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._stop: Callable[[], bool] | None = stop
        self._held = b""
        self._closing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, piece: bytes) -> None:
        """Send the piece together with the one that was held; hold it if there was none."""
        if self._held:
            held, self._held = self._held, b""
            self._transport.writelines((held, piece))
        elif not self._closing:
            self._held = piece
            self._loop.call_soon(self._send)

    def is_closing(self) -> bool:
        """Whether `close` was called, or the connection is lost."""
        return self._closing or self._transport.is_closing()

    def close(self) -> None:
        """Send what was held, then close: at once, or after `LINGER` seconds where the client is still sending."""
        self._send()
        if self._closing or self._transport.is_closing():
            return
        self._closing = True
        if self._stop is not None and self._stop():
            self._transport.write_eof()
            self._transport.resume_reading()
            self._loop.call_later(LINGER, self._transport.close)
        else:
            self._transport.close()

    def lost(self) -> None:
        """Drop the reference to the reader, so that both are freed without a garbage collection."""
        self._stop = None

    def _send(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)
