"""Worker process: serves the connections that the supervisor passes to it.

The worker reports its open connections ten times a second, and at once when some have closed, so that the next one goes
to the worker with the fewest. When the message channel ends, the supervisor is gone, and the worker drains. Connections
arrive on a socket of their own: a worker that has no file descriptor left leaves them there and still gets messages.
"""

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import MutableSequence
from functools import partial

from app.inference.core_sharing import CoreUsage
from app.main import ProcessGroup
from app.observability.logs import configure_logging
from app.server.channel import Channel
from app.server.listener import RETRY_SECONDS, log_accept_failure
from app.server.messages import (
    Drain,
    Drained,
    Draining,
    ForceExit,
    Heartbeat,
    Message,
    ModelReloaded,
    Ready,
    ReloadModel,
    Retire,
    ShedConnections,
    StartFailed,
)
from app.server.process import configure_process
from app.server.server import Server, run
from app.settings import Settings
from model.errors import UserError

log = logging.getLogger(__name__)

REPORT_DELAY = 0.001
"""Seconds for which closed connections are collected before they are reported together."""

MAX_DESCRIPTORS_PASSED = 1

MAX_REASON_LENGTH = 4096
"""Characters of the reason for which a worker cannot start; a message has a limited size."""


class Worker(Server):
    """A server that exits on a message of the supervisor. A signal only lets it drain, also a repeated one."""

    probe_grace_seconds = 0.0  # the other workers answer the probes

    def __init__(self, settings: Settings, channel: Channel, connections: socket.socket, core_usage: CoreUsage) -> None:
        super().__init__(settings, group=ProcessGroup(core_usage, partial(channel.send, ModelReloaded())))
        connections.setblocking(False)
        self._channel, self._connections = channel, connections
        self._report_scheduled = self._paused = False
        self.parent_lost = self.no_more_connections = False

    async def on_started(self) -> None:
        """Wait until the model is warm, then receive connections and the signals that the supervisor has blocked."""
        if not await self.services.engine.wait_until_warm():
            self._channel.send(StartFailed("the warm-up of the model failed; the log says why"))
            await self.abort_startup()
        self._resume()
        self.run_in_background(self._receive_messages())
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._channel.send(Ready())

    def on_exit_signal(self) -> None:
        """Drain. A signal to the process group arrives besides the supervisor's message and is not a second one."""
        self.drain()

    def drain(self) -> None:
        """Refuse new work. The supervisor passes connections to other workers, unless all of them drain."""
        super().drain()
        self._channel.send(Draining())

    def exit_when_idle(self) -> None:
        """Report that no request is left, and exit once the supervisor passes no more connections."""
        self._channel.send(Drained())
        self.should_exit = self.should_exit or self.no_more_connections

    def on_parent_lost(self) -> None:
        """Drain and exit, because the supervisor is gone."""
        self.parent_lost = self.no_more_connections = True
        self.drain()

    async def on_tick(self, counter: int) -> bool:
        """Report to the other workers and the supervisor."""
        self.services.update_gauges()
        self._report()
        return await super().on_tick(counter)

    def on_connection_closed(self) -> None:
        """Report soon that there are fewer connections."""
        if not self._report_scheduled:
            self._report_scheduled = True
            asyncio.get_running_loop().call_later(REPORT_DELAY, self._report)

    def _report(self) -> None:
        self._report_scheduled = False
        self._channel.send(Heartbeat(len(self.pool.connections), self.pool.handled))

    async def _receive_messages(self) -> None:
        """Handle messages and passed connections in the order in which the supervisor has sent them."""
        try:
            while message := await self._channel.receive():
                self._receive_connections()
                self._on_message(message)
        except Exception:
            log.exception("a message of the supervisor cannot be handled: draining")
            self.no_more_connections = True
            self.drain()
        else:
            self._receive_connections()
            self.on_parent_lost()

    def _on_message(self, message: Message) -> None:
        match message:
            case Drain():
                self.drain()
            case ForceExit():
                self.exit_now()
            case ReloadModel():
                self.handle_reload()
            case Retire():
                self.no_more_connections = True
            case ShedConnections(count):
                self.state.shed_connections(count)
            case _:
                raise TypeError(f"expected a message of the supervisor, got {message}")

    def _receive_connections(self) -> None:
        """Receive the passed connections, as long as this process has free file descriptors."""
        try:
            while not self._paused and self._connections.recv(1, socket.MSG_PEEK):
                os.close(os.dup(self._connections.fileno()))  # without a free descriptor the connection would be lost
                _, descriptors, *_ = socket.recv_fds(self._connections, 64, MAX_DESCRIPTORS_PASSED)
                for descriptor in descriptors:
                    self.attach(socket.socket(fileno=descriptor))
                if not descriptors:  # the system could not pass it
                    self.pool.count_failed()
        except BlockingIOError:
            return
        except ConnectionError:
            pass
        except OSError as failure:
            log_accept_failure(log, failure)
            self._paused = True
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._resume)
        asyncio.get_running_loop().remove_reader(self._connections)

    def _resume(self) -> None:
        """Receive connections as they arrive."""
        self._paused = False
        asyncio.get_running_loop().add_reader(self._connections, self._receive_connections)


def run_worker(
    settings: Settings, number: int, messages: socket.socket, connections: socket.socket, slots: MutableSequence[int]
) -> None:
    """Serve as worker `number`; exit with 0 once drained.

    An error that the user can correct is sent to the supervisor, which reports it once.
    """
    configure_logging(settings, number)
    configure_process(settings, number)
    channel = Channel(messages)
    try:
        worker = Worker(settings, channel, connections, CoreUsage(slots, number))
    except UserError as error:
        channel.send(StartFailed(str(error)[:MAX_REASON_LENGTH]))
        sys.exit(2)
    run(worker)
    if worker.parent_lost:
        shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)  # as the supervisor does otherwise
