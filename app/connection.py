"""One caller's connection, on which an answer's head goes out together with its body.

uvicorn writes them one after the other. Each write wakes the caller, who finds half an answer and waits again; on a
busy machine that costs the service more than all that it does to make the two.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Connection(HttpToolsProtocol):
    """uvicorn's, on a `Gathering` transport."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to serve who is at its other end."""
        gathering: Any = Gathering(transport, self.loop)
        super().connection_made(gathering)


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

    def close(self) -> None:
        """Send what was held, then close."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)
