"""A worker as its parent sees it: a process, and the line to it, by which connections are given and words exchanged."""

import asyncio
import logging
import multiprocessing
import signal
import socket
import sys
from collections import deque
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager, suppress

from app.settings import Settings

log = logging.getLogger(__name__)

_SPAWN = multiprocessing.get_context("spawn")
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if sys.platform != "win32" else ()


def _work(settings: Settings, number: int, line: socket.socket, places: MutableSequence[int]) -> None:
    from app.worker import work  # noqa: PLC0415  # it brings torch, which the parent does without

    work(settings, number, line, places)


class Child:
    """`warm` since it said so, `failure` what it could not start with, `draining` and `done` on its way out.

    It has so many `connections`. `silent` counts the seconds since its last word; once `dismissed` it is given nothing
    more.
    """

    def __init__(self, settings: Settings, number: int, places: MutableSequence[int]) -> None:
        self.number = number
        self.warm = self.draining = self.done = self.dismissed = False
        self.failure = ""
        self.silent = 0
        self.connections = self._given = 0
        self._surplus = self._spare = 0
        self._full = False
        self._unsaid: deque[str] = deque()
        self._line, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.setblocking(False)
        self.process = _SPAWN.Process(target=_work, args=(settings, number, its, places), name=f"worker {number}")
        with its, _held_back():
            self.process.start()
        log.info("worker %d is process %d", number, self.process.pid)

    async def hear(self) -> str:
        """Its next word, none when it is gone."""
        try:
            word = (await asyncio.get_running_loop().sock_recv(self._line, 65_536)).decode()
        except ConnectionError:
            word = ""
        self.silent, self._full = 0, not word
        self._say()
        return word

    def say(self, word: str) -> None:
        """Send it a word: drain, leave, reload, spare or end; where its line is full, once it has spoken itself."""
        self._unsaid.append(word)
        self._say()

    def _say(self) -> None:
        with suppress(OSError):  # the line is full until its next word, or it is gone
            while self._unsaid:
                self._line.send(self._unsaid[0].encode())
                self._unsaid.popleft()

    def take(self, connection: socket.socket) -> bool:
        """Give it a connection; it takes none while it has not looked at the last ones, nor when it is gone."""
        try:
            socket.send_fds(self._line, [b"caller"], [connection.fileno()])
        except OSError:
            self._full = True
            return False
        self._given += 1
        self.connections += 1
        return True

    def count(self, inside: int, taken: int) -> None:
        """So many connections were open when it had taken so many of those that it was given."""
        self.connections = inside + self._given - taken

    def share(self, fair: float) -> None:
        """Let it part with what it has had beyond its fair share of connections, now and the last time."""
        surplus = max(0, int(self.connections - fair))
        spare, self._surplus = min(surplus, self._surplus), surplus
        if spare or self._spare:
            self.say(f"spare {spare}")
        self._spare = spare

    def has_room(self) -> bool:
        """Whether it takes connections."""
        return not (self._full or self.dismissed)

    def takes(self) -> bool:
        """Whether it will go on to take them."""
        return self.has_room() and not self.draining and self.silent <= 1

    def burden(self) -> tuple[bool, bool, int]:
        """The less of it, the better it can take another connection."""
        return self.draining, self.silent > 1, self.connections

    def dismiss(self) -> None:
        """Let it end."""
        self.dismissed = True
        self.say("end")

    async def ended(self) -> int:
        """Its exit code."""
        await asyncio.to_thread(self.process.join)
        self._line.close()
        return self.process.exitcode or 0


@contextmanager
def _held_back() -> Iterator[None]:
    """Signals wait meanwhile; a process that is started here inherits that, and takes them when it can heed them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
