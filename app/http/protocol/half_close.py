"""Half-closed connections: a client that sends no more may still read its response (RFC 9112, 9.6), or be gone.

Both look the same until something is sent to the client: the system of a client that has closed the whole connection
answers with a reset. So a client that waits for a response gets an interim one, 100 (Continue), which clients ignore
(RFC 9110, 15.2).
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

CHECK_INTERVAL = 0.05
"""Seconds between two checks. Most requests are answered before the first."""

_INTERIM_RESPONSE = b"HTTP/1.1 100 Continue\r\n\r\n"


class DisconnectProbe:
    """Aborts a half-closed connection once the client turns out to be gone.

    `may_send_interim` says whether an interim response may be sent at this moment.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop, may_send_interim: Callable[[], bool]) -> None:
        self._transport = transport
        self._loop = loop
        self._may_send_interim = may_send_interim
        self._sent = False
        self._timer = loop.call_later(CHECK_INTERVAL, self._check)

    def stop(self) -> None:
        """End the checks."""
        self._timer.cancel()

    def _check(self) -> None:
        if self._transport.is_closing():
            return
        if self._transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._transport.abort()
            return
        if not self._sent and self._may_send_interim():
            self._transport.write(_INTERIM_RESPONSE)
            self._sent = True
        self._timer = self._loop.call_later(CHECK_INTERVAL, self._check)
