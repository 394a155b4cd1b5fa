"""A worker as the supervisor sees it: a process, a channel of messages, and a socket that passes connections to it."""

import asyncio
import logging
import multiprocessing
import signal
import socket
import sys
from collections.abc import Iterator, MutableSequence
from contextlib import ExitStack, contextmanager, suppress

from app.server.channel import Channel
from app.settings import Settings

log = logging.getLogger(__name__)

LONGEST_PAUSE = 30.0
"""Seconds before the next attempt to start a worker, at most."""

_SPAWN = multiprocessing.get_context("spawn")
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if sys.platform != "win32" else ()


def _work(
    settings: Settings, number: int, messages: socket.socket, passed: socket.socket, places: MutableSequence[int]
) -> None:
    from app.server.worker import work  # noqa: PLC0415  # it brings torch, which the parent does without

    work(settings, number, messages, passed, places)


def pause(failures: int) -> float:
    """Seconds before the next attempt to start a worker, after so many that failed in a row."""
    return min(2.0 ** max(0, failures - 1) - 1, LONGEST_PAUSE)


class WorkerProcess:
    """`warm` since it said so, `failure` what it could not start with, `draining` and `done` on its way out.

    It has so many `connections`. `silent` counts the seconds since its last word; once `dismissed` it is given nothing
    more. Raises `OSError` where the process cannot be started, for want of processes, files or memory.
    """

    def __init__(self, settings: Settings, number: int, places: MutableSequence[int]) -> None:
        self.number = number
        self.warm = self.draining = self.done = self.dismissed = False
        self.failure = ""
        self.silent = 0
        self.connections = self._given = 0
        self._surplus = self._spare = 0
        self._full = False
        self._code: int | None = None
        with ExitStack() as own, ExitStack() as its:
            near, messages = _pair(own, its)
            self._passing, passed = _pair(own, its)
            self._passing.setblocking(False)
            self._channel = Channel(near)
            words = (settings, number, messages, passed, places)
            self.process = _SPAWN.Process(target=_work, args=words, name=f"worker {number}")
            with _held_back():
                self.process.start()
            own.pop_all()
        log.info("worker %d is process %d", number, self.process.pid)

    async def hear(self) -> str:
        """Its next word, none when it is gone."""
        word = await self._channel.receive()
        self.silent, self._full = 0, not word
        return word

    def say(self, word: str) -> None:
        """Send it a word: drain, leave, reload, spare or end."""
        self._channel.send(word)

    def take(self, connection: socket.socket) -> bool:
        """Give it a connection; it takes none while it has not looked at the last ones, nor when it is gone."""
        try:
            socket.send_fds(self._passing, [b"caller"], [connection.fileno()])
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

    def end(self, word: str) -> None:
        """Let it drain or leave; one that is not warm was given nothing, and is killed."""
        self.say(word) if self.warm else self.kill()

    async def abandon(self, seconds: float) -> None:
        """Close the channel, so that the worker drains and ends by itself; kill it if it has not ended in time."""
        self.end("drain")
        self._channel.close()
        self._passing.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.ended(), seconds)
        self.kill()
        await self.ended()

    def kill(self) -> None:
        """End the process, unless it has ended."""
        if self._code is None:
            self.process.kill()

    async def ended(self) -> int:
        """Its exit code, once it has ended."""
        if self._code is None:
            loop, ended, sentinel = asyncio.get_running_loop(), asyncio.Event(), self.process.sentinel
            loop.add_reader(sentinel, ended.set)  # a thread that joins the process might not be had
            try:
                await ended.wait()
            finally:
                loop.remove_reader(sentinel)
            self.process.join()
            self._code = self.process.exitcode or 0
            self.process.close()
            self._channel.close()
            self._passing.close()
        return self._code


def _pair(own: ExitStack, its: ExitStack) -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return own.enter_context(near), its.enter_context(far)


@contextmanager
def _held_back() -> Iterator[None]:
    """Signals wait meanwhile; a process that is started here inherits that, and takes them when it can heed them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
