"""One of several serving processes: its parent gives it connections once it is warm, so that it refuses no request.

The supervisor sends drain, leave, reload, spare, or end, after which no connection comes; the worker tells ten times a
second how many are open, and at once when some have gone: the next one is given to the worker that has fewer. When the
channel ends the supervisor is gone, and the worker drains. Connections are passed by a socket of their own, so that a
worker that may open no more files leaves them there and still gets its messages.
"""

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, MutableSequence
from contextlib import asynccontextmanager
from functools import partial
from types import FrameType

from fastapi import FastAPI
from prometheus_client import values

from app.inference.core_sharing import CoreUsage
from app.main import ProcessGroup
from app.observability.logs import configure_logging
from app.server.channel import Channel
from app.server.listener import PAUSE
from app.server.server import Server, run
from app.settings import Settings
from model.checkpoint import CheckpointError

log = logging.getLogger(__name__)

AT_ONCE = 0.001
"""Seconds in which connections that go together are told together."""


class Worker(Server):
    """A server that is told by its parent when to end; a signal lets it drain, however often it comes."""

    linger = 0.0  # the others answer the probes
    orphaned = dismissed = False

    def __init__(self, settings: Settings, channel: Channel, passed: socket.socket, neighbours: CoreUsage) -> None:
        group = ProcessGroup(neighbours, partial(channel.send, "reloaded"))
        super().__init__(settings, group=group)
        passed.setblocking(False)
        self._channel, self._passed = channel, passed
        self._taken = 0
        self._telling = self._paused = False
        self._inner = self.app.router.lifespan_context
        self.app.router.lifespan_context = self._lifespan

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Get warm, then take connections and signals, which were held back since the parent began to start this."""
        await super().startup(sockets)
        self._go_on()
        self._hearing = asyncio.create_task(self._hear())
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._channel.send("warm")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn's signature
        """Begin to drain: a signal to the whole group comes besides what the parent says, and is no second one."""
        self.drain()

    def drain(self) -> None:
        """Take no more work; the others are given the connections, unless they drain as well."""
        super().drain()
        self._channel.send("draining")

    def finish(self) -> None:
        """The house is empty: end as soon as nobody is sent here any more."""
        self._channel.send("done")
        self.should_exit = self.should_exit or self.dismissed

    def dismiss(self) -> None:
        """Nobody is sent here any more."""
        self.dismissed = True

    def fend_for_itself(self) -> None:
        """The parent is gone."""
        self.orphaned = self.dismissed = True
        self.drain()

    async def on_tick(self, counter: int) -> bool:
        """Tell what the others and the parent cannot see of this process."""
        self.services.update_gauges()
        self._tell()
        return await super().on_tick(counter)

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        async with self._inner(app):
            if not await self.services.engine.wait_until_warm():
                self._channel.send("failed the model does not get warm; the log says why")
                raise RuntimeError("the model does not get warm")
            yield

    def on_connection_closed(self) -> None:
        """Report soon that there are fewer connections."""
        if not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_later(AT_ONCE, self._tell)

    def _tell(self) -> None:
        self._telling = False
        self._channel.send(f"inside {len(self.pool.connections)} {self._taken}")

    async def _hear(self) -> None:
        """Do what the supervisor says, in the order in which it has passed connections and sent messages."""
        does = {"drain": self.drain, "leave": self.leave, "reload": self.handle_reload, "end": self.dismiss}
        try:
            while message := await self._channel.receive():
                self._take_passed()
                word, _, rest = message.partition(" ")
                if word == "spare":
                    self.state.shed_connections(int(rest))
                else:
                    does[word]()
        except Exception:
            log.exception("the worker cannot do what the supervisor says: it drains and ends")
            self.dismissed = True
            self.drain()
        else:
            self._take_passed()
            self.fend_for_itself()

    def _take_passed(self) -> None:
        """Take the connections that the supervisor has passed, as far as this process may open files."""
        try:
            while not self._paused and self._passed.recv(1, socket.MSG_PEEK):
                os.close(os.dup(self._passed.fileno()))  # a descriptor that has no room when it is received is lost
                _, connections, *_ = socket.recv_fds(self._passed, 64, 1)
                self._taken += 1
                for connection in connections:
                    self.take(socket.socket(fileno=connection))
        except BlockingIOError:
            return
        except ConnectionError:
            pass
        except OSError as failure:
            log.warning("no connection can be taken in for %g s: %s", PAUSE, failure.strerror)
            self._paused = True
            asyncio.get_running_loop().call_later(PAUSE, self._go_on)
        asyncio.get_running_loop().remove_reader(self._passed)

    def _go_on(self) -> None:
        """Watch for connections that are passed."""
        self._paused = False
        asyncio.get_running_loop().add_reader(self._passed, self._take_passed)


def work(
    settings: Settings, number: int, messages: socket.socket, passed: socket.socket, places: MutableSequence[int]
) -> None:
    """Serve as worker `number` the connections that the supervisor passes; exit code 0 when drained.

    A failure that the user can mend is sent to the supervisor, which reports it once.
    """
    configure_logging(settings, number)
    values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]
    channel = Channel(messages)
    try:
        worker = Worker(settings, channel, passed, CoreUsage(places, number))
    except (ValueError, CheckpointError, OSError) as error:
        channel.send(f"failed {error}")
        sys.exit(2)
    run(worker)
    if worker.orphaned:
        shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)  # as the parent would have
