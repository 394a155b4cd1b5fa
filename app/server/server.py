"""uvicorn server that drains before it closes its listening socket.

On SIGTERM or SIGINT readiness turns 503 while the socket still listens, new work is refused, accepted work is finished,
and the process exits with 0. Requests that are left after the graceful timeout, or at a second signal, get 503, and the
process exits with 1. SIGHUP reloads the model from its folder. When the device is lost, liveness turns 503, and a
little later the process exits with 1, to be restarted. No thread delays the exit.

This module and `app.http.protocol` are the only ones that use uvicorn's internals.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Coroutine
from types import FrameType
from typing import Any, NoReturn

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from app.api.services import Services
from app.http.protocol.connection import HttpConnection
from app.http.protocol.pool import ConnectionPool
from app.http.state import ServiceState
from app.main import ProcessGroup, create_app
from app.server.listener import Listener
from app.server.process import configure_process
from app.server.startup import ignore_signals, release_signals
from app.settings import Settings

log = logging.getLogger(__name__)

ABORT_SECONDS = 1
"""Seconds from the cancellation of the requests that are left to the abort of all connections."""


class Server(uvicorn.Server):
    """A uvicorn server that gets its connections from a listener of its own or by calls of `attach`.

    Probes are answered for `probe_grace_seconds` after the device was lost. The process exits `exit_deadline_seconds`
    after the graceful timeout even if threads are still running.
    """

    probe_grace_seconds = 10.0
    exit_deadline_seconds = 5.0

    def __init__(self, settings: Settings, listener: Listener | None = None, group: ProcessGroup | None = None) -> None:
        self.listener = listener
        self.pool = ConnectionPool(settings.max_connections, self.on_connection_closed)
        self.state = ServiceState(self.pool.connections)
        self.app = create_app(settings, state=self.state, group=group)
        self.services: Services = self.app.state.services
        self.graceful_timeout = settings.graceful_timeout_s
        self.device_lost_at = 0.0
        self.cancelled_count = 0
        self.exiting = threading.Event()
        self._background: list[asyncio.Task[None]] = []
        super().__init__(
            uvicorn.Config(
                self.app,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # nothing depends on the address of a client
                timeout_graceful_shutdown=ABORT_SECONDS + 1,  # never reached, as all connections are aborted before
            )
        )

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until the exit code is known; signals are ignored from then on."""
        async with asyncio.TaskGroup() as self._tasks:
            await super().serve(sockets)
            for task in self._background:
                task.cancel()
        ignore_signals()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002  # uvicorn's signature
        """Start the application, and SIGHUP where the system has it."""
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.handle_reload)
        await super().startup([])
        await self.on_started()

    async def on_started(self) -> None:
        """Accept connections, now that the application has started."""
        release_signals()
        if self.listener:
            self.listener.start(self.attach)
            self.run_in_background(self._log_address(self.listener.address))

    async def abort_startup(self) -> NoReturn:
        """Stop the application and exit, because it cannot serve."""
        await self.lifespan.shutdown()
        sys.exit(STARTUP_FAILURE)

    def run_in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine until the server has shut down. An exception in it ends the process."""
        self._background.append(self._tasks.create_task(work))

    async def _log_address(self, address: str) -> None:
        if await self.services.engine.wait_until_warm():
            log.info("open %s", address)

    def on_connection_closed(self) -> None:
        """React to a closed connection."""

    def attach(self, connection: socket.socket) -> None:
        """Serve the requests of an accepted connection."""
        self._tasks.create_task(self._attach(connection))

    async def _attach(self, connection: socket.socket) -> None:
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except OSError:  # the client has closed the connection
            self._discard(connection)
        except Exception:
            log.exception("a connection cannot be served")
            self._discard(connection)

    def _discard(self, connection: socket.socket) -> None:
        self.pool.count_failed()
        connection.close()

    def _protocol(self) -> asyncio.Protocol:
        return HttpConnection(
            self.config, self.server_state, self.lifespan.state, self.pool, self.services.metrics.count_refused
        )

    def handle_reload(self) -> None:
        """Reload the model from its folder, unless the server drains."""
        if self.state.draining:
            log.warning("ignoring SIGHUP while draining")
        else:
            self.services.reloader.begin()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn's signature
        """Schedule `on_exit_signal`: Python may run a signal handler in the middle of any function."""
        asyncio.get_running_loop().call_soon_threadsafe(self.on_exit_signal)

    def on_exit_signal(self) -> None:
        """Drain; exit at once at the second signal."""
        if self.state.draining:
            self.exit_now()
        else:
            self.drain()

    def drain(self) -> None:
        """Refuse new work, and exit when no request is left or the graceful timeout is over."""
        if not self.state.draining:
            self.state.drain()
            self._drained_by = time.monotonic() + self.graceful_timeout
            log.info("draining: %d requests in flight, at most %g s", len(self.state.in_flight), self.graceful_timeout)

    def exit_when_idle(self) -> None:
        """Exit, now that no request is left or the graceful timeout is over."""
        self.should_exit = True

    def exit_now(self) -> None:
        """Exit although requests are left."""
        self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Check ten times a second whether the server should exit."""
        if self.state.draining and (not self._has_work() or time.monotonic() > self._drained_by):
            self.exit_when_idle()
        if not self.services.engine.alive:
            self.device_lost_at = self.device_lost_at or time.monotonic()
            if time.monotonic() > self.device_lost_at + self.probe_grace_seconds:
                self.should_exit = True
        return await super().on_tick(counter)

    def _has_work(self) -> bool:
        """Whether a request is in flight, or a client has not received the whole response."""
        return bool(self.state.in_flight) or any(connection.is_busy for connection in self.pool.connections)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listener, refuse the last connections, cancel the requests that are left, then shut down.

        The cancelled requests have `ABORT_SECONDS` to send their responses; then all connections are aborted.
        """
        if self.listener:
            self.listener.close()
        await asyncio.sleep(0.1)
        if cancelled := self.state.cancel_all():
            self.cancelled_count = cancelled
            log.warning("requests cancelled at shutdown: %d", cancelled)
        threading.Thread(target=self._exit_hard, daemon=True).start()
        aborting = asyncio.get_running_loop().call_later(ABORT_SECONDS, self._abort_connections)
        await super().shutdown(sockets)
        aborting.cancel()
        self._abort_connections()
        if self.force_exit:
            await self.lifespan.shutdown()  # uvicorn leaves it out, and cancelled tasks would be logged as failures

    def _abort_connections(self) -> None:
        """Abort all connections; responses that are cut off count as lost requests."""
        connections = [*self.pool.connections]
        if lost := sum(connection.is_busy for connection in connections):
            self.cancelled_count += lost
            log.warning("responses cut off at shutdown, because their clients did not read them: %d", lost)
        for connection in connections:
            connection.abort()

    @property
    def exit_code(self) -> int:
        """1 if the device or an accepted request was lost, else 0."""
        return int(bool(self.device_lost_at or self.cancelled_count))

    def _exit_hard(self) -> None:
        """Exit after the deadline. Python waits for each thread, and one that decodes an image may take minutes."""
        if not self.exiting.wait(self.exit_deadline_seconds):
            log.warning("exiting although threads are still running")
            logging.shutdown()
            os._exit(self.exit_code)


def serve(settings: Settings) -> None:
    """Serve in this process until a signal; returns when everything accepted was answered.

    Raises `UserError` for a port that is in use.
    """
    configure_process(settings)
    run(Server(settings, Listener(settings.host, settings.port)))


def run(server: Server) -> None:
    """Run a server to its end, and exit if its exit code is not 0."""
    gc.freeze()  # the 200,000 objects of torch and the application stay: no collection has to visit them
    server.run()
    if all(thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        server.exiting.set()  # otherwise Python waits for the threads, and the deadline must end the process
    if server.exit_code:
        sys.exit(server.exit_code)
