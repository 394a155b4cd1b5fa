"""The process: uvicorn, told to drain before it stops listening.

On SIGTERM or SIGINT readiness turns 503 while the listener still answers, new work is refused, accepted work is
finished, and the process ends with 0. What is left when the time for that is over is answered 503, and the process ends
with 1; a second signal says that it is over. On SIGHUP the model's folder is loaded anew. When the device is lost,
liveness turns 503, and a little later the process ends with 1, for whoever restarts it. No thread holds up the end.
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
from types import FrameType

import uvicorn

from app.api.services import Services
from app.http.protocol.connection import HttpConnection
from app.http.protocol.pool import ConnectionPool
from app.http.state import ServiceState
from app.inference.device import configure_torch
from app.main import ProcessGroup, create_app
from app.server.listener import Listener
from app.server.startup import ignore_signals, release_signals
from app.settings import Settings

log = logging.getLogger(__name__)

LAST = 5.0
"""Seconds after the time for those inside in which the process ends, whatever its threads do."""


class Server(uvicorn.Server):
    """A uvicorn server that empties the house before it closes the door.

    Those who come are given to it, by a reception of its own or by whoever has one. `linger` is for how many seconds it
    goes on answering its probes when the device is lost.
    """

    linger = 10.0

    def __init__(
        self, settings: Settings, reception: Listener | None = None, group: ProcessGroup | None = None
    ) -> None:
        self.reception = reception
        self.pool = ConnectionPool(settings.max_connections, self.on_connection_closed)
        self.state = ServiceState(self.pool.connections)
        configure_torch(settings)
        self.app = create_app(settings, state=self.state, group=group)
        self.services: Services = self.app.state.services
        self.grace = settings.graceful_timeout_s
        self.lost_at = 0.0
        self.cut = 0
        self.ended = threading.Event()
        self._coming: set[asyncio.Task[None]] = set()
        super().__init__(
            uvicorn.Config(
                self.app,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # nothing here depends on where a caller is
                timeout_graceful_shutdown=1,  # who is inside by then has been cut, and hears it
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002  # uvicorn's signature
        """Start to listen, also for SIGHUP where the system has it."""
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.handle_reload)
        await super().startup([])
        release_signals()
        if self.reception:
            self.reception.open(self.take)
            self._opened = asyncio.create_task(self._tell_address(self.reception.address))

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve to the end; then the exit code is known, and signals are ignored."""
        await super().serve(sockets)
        ignore_signals()

    async def _tell_address(self, address: str) -> None:
        if await self.services.engine.wait_until_warm():
            log.info("open %s", address)

    def on_connection_closed(self) -> None:
        """React to a closed connection."""

    def take(self, connection: socket.socket) -> None:
        """Serve who is at the other end of a connection."""
        coming = asyncio.create_task(self._welcome(connection))
        self._coming.add(coming)
        coming.add_done_callback(self._coming.discard)

    async def _welcome(self, connection: socket.socket) -> None:
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except OSError:  # he has left again
            connection.close()

    def _protocol(self) -> asyncio.Protocol:
        return HttpConnection(
            self.config, self.server_state, self.lifespan.state, self.pool, self.services.metrics.count_refused
        )

    def handle_reload(self) -> None:
        """Load the model's folder anew, unless the house is being emptied."""
        if self.state.draining:
            log.warning("draining: SIGHUP comes too late to load the model anew")
        else:
            self.services.reloader.begin()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn's signature
        """Begin to drain; at the second signal, leave."""
        self.leave() if self.state.draining else self.drain()

    def drain(self) -> None:
        """Take no more work, and end when the house is empty or its time is over."""
        if not self.state.draining:
            self.state.drain()
            self.drained_by = time.monotonic() + self.grace
            log.info("draining: %d requests inside, at most %g s", len(self.state.in_flight), self.grace)

    def finish(self) -> None:
        """The house is empty, or its time over: end."""
        self.should_exit = True

    def leave(self) -> None:
        """There is no more time: end."""
        self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """uvicorn's clock, ten times a second."""
        if self.state.draining and (not len(self.state.in_flight) or time.monotonic() > self.drained_by):
            self.finish()
        if not self.services.engine.alive:
            self.lost_at = self.lost_at or time.monotonic()
            self.should_exit = self.should_exit or time.monotonic() > self.lost_at + self.linger
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen no more, let those be refused who have just come in, cut those who are still inside, then end."""
        if self.reception:
            self.reception.close()
        await asyncio.sleep(0.1)
        if cut := self.state.cancel_all():
            self.cut = cut
            log.warning("no more time: %d requests are cut", cut)
        threading.Thread(target=self._end_anyway, daemon=True).start()
        await super().shutdown(sockets)
        for connection in [*self.server_state.connections]:
            connection.abort()  # type: ignore[union-attr]  # uvicorn names its own protocols
        if self.force_exit:
            await self.lifespan.shutdown()  # which uvicorn leaves out: what is cancelled then tells where it was

    @property
    def code(self) -> int:
        """The exit code: whether something accepted was lost."""
        return int(bool(self.lost_at or self.cut))

    def _end_anyway(self) -> None:
        """A thread cannot be stopped, and Python waits for each to end: one that reads a picture may take minutes."""
        if not self.ended.wait(LAST):
            log.warning("threads are still at work: the process ends without them")
            logging.shutdown()
            os._exit(self.code)


def serve(settings: Settings) -> None:
    """Serve until a signal; returns when everything accepted was answered.

    Raises `OSError` for a port that is taken.
    """
    run(Server(settings, Listener(settings.host, settings.port)))


def run(server: Server) -> None:
    """Run a server to its end, and the process with it where its exit code is not 0."""
    gc.freeze()  # 200,000 objects of torch and the application that stay: no collection stops everyone to look at them
    server.run()
    if all(thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        server.ended.set()  # else Python waits for the threads, and the watchdog does not
    if server.code:
        sys.exit(server.code)
