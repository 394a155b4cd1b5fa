"""Messages between the supervisor and a worker, in both directions: short texts, in order, of which none is lost.

A message that the socket has no room for waits in an outbox. There a newer message of the same kind, which is its first
word, replaces the older one: each kind is a state ("inside 5 7", "spare 2") or asks for something that one message
asks for as well as two do ("reload", "drain"). So the outbox has at most one message of each kind.
"""

import asyncio
import socket

LONGEST = 65_536
"""Bytes of a message."""


class Channel:
    """One end of a pair of sockets of the type SOCK_SEQPACKET."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._outbox: dict[str, str] = {}
        self._watched = False

    def send(self, message: str) -> None:
        """Send a message now, or as soon as the socket has room, for which the event loop must be running."""
        self._outbox[message.partition(" ")[0]] = message
        self._flush()

    async def receive(self) -> str:
        """The next message; an empty one when the other end is closed."""
        try:
            return (await asyncio.get_running_loop().sock_recv(self._socket, LONGEST)).decode()
        except ConnectionError:
            return ""

    def close(self) -> None:
        """Close this end. Messages that have not been sent are given up."""
        self._outbox.clear()
        self._watch()
        self._socket.close()

    def _flush(self) -> None:
        try:
            while self._outbox:
                kind, message = next(iter(self._outbox.items()))
                self._socket.send(message.encode())
                del self._outbox[kind]
        except BlockingIOError:
            pass
        except OSError:  # an end is closed, which `receive` tells
            self._outbox.clear()
        self._watch()

    def _watch(self) -> None:
        """Let the event loop flush the outbox once the socket has room, as long as there is something in it."""
        if self._watched == bool(self._outbox):
            return
        self._watched, loop = bool(self._outbox), asyncio.get_running_loop()
        if self._watched:
            loop.add_writer(self._socket, self._flush)
        else:
            loop.remove_writer(self._socket)
