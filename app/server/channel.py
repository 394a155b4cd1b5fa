"""Message channel between the supervisor and a worker: both directions, in order, without loss.

Messages that do not fit into the socket wait in an outbox. A newer message replaces the waiting one of the same type,
so the outbox holds at most one message of each type.
"""

import asyncio
import socket

from app.server.messages import MAX_MESSAGE_BYTES, Message, parse, serialize


class Channel:
    """One end of a pair of SOCK_SEQPACKET sockets."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._outbox: dict[type[Message], Message] = {}
        self._waiting = False

    def send(self, message: Message) -> None:
        """Send a message now, or as soon as the socket is writable. The event loop must run in the second case."""
        self._outbox[type(message)] = message
        self._flush()

    async def receive(self) -> Message | None:
        """Wait for the next message; None when the other end is closed."""
        try:
            data = await asyncio.get_running_loop().sock_recv(self._socket, MAX_MESSAGE_BYTES)
        except ConnectionError:
            return None
        return parse(data) if data else None

    def close(self) -> None:
        """Close this end, and discard the messages that have not been sent."""
        self._outbox.clear()
        self._update_writer()
        self._socket.close()

    def _flush(self) -> None:
        try:
            while self._outbox:
                kind, message = next(iter(self._outbox.items()))
                self._socket.send(serialize(message))
                del self._outbox[kind]
        except BlockingIOError:
            pass
        except OSError:  # one end is closed, which `receive` reports
            self._outbox.clear()
        self._update_writer()

    def _update_writer(self) -> None:
        """Flush on writability exactly as long as the outbox holds messages."""
        if self._waiting == bool(self._outbox):
            return
        self._waiting, loop = bool(self._outbox), asyncio.get_running_loop()
        if self._waiting:
            loop.add_writer(self._socket, self._flush)
        else:
            loop.remove_writer(self._socket)
