"""The supervisor's handle on a worker: its process, its message channel, and the socket that passes connections."""

import asyncio
import logging
import multiprocessing
import signal
import socket
import sys
from collections.abc import Iterator, MutableSequence
from contextlib import ExitStack, contextmanager, suppress

from app.server.channel import Channel
from app.server.messages import (
    CONNECTION_PASSED,
    Drain,
    Drained,
    Draining,
    ForceExit,
    Heartbeat,
    Message,
    Ready,
    Retire,
    ShedConnections,
    StartFailed,
    SupervisorMessage,
)
from app.server.startup import without_collections
from app.settings import Settings

log = logging.getLogger(__name__)

MAX_BACKOFF = 30.0
"""Seconds before the next attempt to start a worker, at most."""

_SPAWN = multiprocessing.get_context("spawn")
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if sys.platform != "win32" else ()


def _run_worker(
    settings: Settings, number: int, messages: socket.socket, connections: socket.socket, slots: MutableSequence[int]
) -> None:
    with without_collections():
        from app.server.worker import run_worker  # noqa: PLC0415  # it imports torch, which the supervisor does not need

    run_worker(settings, number, messages, connections, slots)


def backoff(failures: int) -> float:
    """Seconds before the next attempt to start a worker, after this number of consecutive failures."""
    return min(2.0 ** max(0, failures - 1) - 1, MAX_BACKOFF)


class WorkerProcess:
    """A running worker and what it has reported.

    `ready`, `draining` and `drained` are states that the worker has reported, `failure` is the reason for which it
    cannot start. `seconds_silent` counts the seconds since its last message; a `retired` worker gets no more
    connections. Raises `OSError` where the system has no process, file descriptor or memory for another worker.
    """

    def __init__(self, settings: Settings, number: int, slots: MutableSequence[int]) -> None:
        self.number = number
        self.ready = self.draining = self.drained = self.retired = False
        self.failure = ""
        self.seconds_silent = 0
        self.connections = self._passed = 0
        self._excess = self._shed = 0
        self._full = False
        self._code: int | None = None
        with ExitStack() as own, ExitStack() as theirs:
            near, messages = _socket_pair(own, theirs)
            self._passing, connections = _socket_pair(own, theirs)
            self._passing.setblocking(False)
            self._channel = Channel(near)
            arguments = (settings, number, messages, connections, slots)
            self.process = _SPAWN.Process(target=_run_worker, args=arguments, name=f"worker {number}")
            with _blocked_signals():
                self.process.start()
            own.pop_all()
        log.info("worker %d is process %d", number, self.process.pid)

    async def receive(self) -> Message | None:
        """Wait for the next message; None when the worker has exited."""
        message = await self._channel.receive()
        self.seconds_silent, self._full = 0, message is None
        match message:
            case Heartbeat(open_connections, handled):  # passed connections may not be open yet
                self.connections = open_connections + self._passed - handled
            case Ready():
                self.ready = True
            case Draining():
                self.draining = True
            case Drained():
                self.drained = True
            case StartFailed(reason):
                self.failure = reason
        return message

    def count_second(self) -> int:
        """Count a second of silence; the number of seconds since the last message."""
        self.seconds_silent += 1
        return self.seconds_silent

    def send(self, message: SupervisorMessage) -> None:
        """Send a message to the worker."""
        self._channel.send(message)

    def hand_over(self, connection: socket.socket) -> bool:
        """Pass a connection to the worker. False if the socket is full, until the worker sends its next message."""
        try:
            socket.send_fds(self._passing, [CONNECTION_PASSED], [connection.fileno()])
        except OSError:
            self._full = True
            return False
        self._passed += 1
        self.connections += 1
        return True

    def rebalance(self, fair_share: float) -> None:
        """Ask the worker to close connections that exceeded its fair share in two consecutive checks."""
        excess = max(0, int(self.connections - fair_share))
        shed, self._excess = min(excess, self._excess), excess
        if shed or self._shed:
            self.send(ShedConnections(shed))
        self._shed = shed

    def can_accept(self) -> bool:
        """Whether a connection can be passed now."""
        return not (self._full or self.retired)

    def accepts_more(self) -> bool:
        """Whether the worker will go on to receive connections."""
        return self.can_accept() and not self.draining and self.seconds_silent <= 1

    def load_key(self) -> tuple[bool, bool, int]:
        """The sort key by which the least loaded worker comes first."""
        return self.draining, self.seconds_silent > 1, self.connections

    def retire(self) -> None:
        """Pass no more connections, and let the worker exit."""
        self.retired = True
        self.send(Retire())

    def stop(self, message: Drain | ForceExit) -> None:
        """Send the message to a worker that is ready; kill one that is not, because it has no connections."""
        if self.ready:
            self.send(message)
        else:
            self.kill()

    async def abandon(self, seconds: float) -> None:
        """Close the channel, so that the worker drains and exits on its own; kill it after this number of seconds."""
        self.stop(Drain())
        self._channel.close()
        self._passing.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.wait(), seconds)
        self.kill()
        await self.wait()

    def kill(self) -> None:
        """Kill the process, unless it has exited."""
        if self._code is None:
            self.process.kill()

    async def wait(self) -> int:
        """Wait for the process to exit; its exit code."""
        if self._code is None:
            loop, exited, sentinel = asyncio.get_running_loop(), asyncio.Event(), self.process.sentinel
            loop.add_reader(sentinel, exited.set)  # needs no thread, which the system may refuse
            try:
                await exited.wait()
            finally:
                loop.remove_reader(sentinel)
            self.process.join()
            self._code = self.process.exitcode or 0
            self.process.close()
            self._channel.close()
            self._passing.close()
        return self._code


def _socket_pair(own: ExitStack, theirs: ExitStack) -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return own.enter_context(near), theirs.enter_context(far)


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block signals in this thread. A process started meanwhile inherits the mask and unblocks them when ready."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
