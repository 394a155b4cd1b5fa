"""One of several serving processes: its parent gives it connections once it is warm, so that it refuses no request.

Over the same line the parent says drain, leave, reload, or end, after which no connection comes; the worker tells ten
times a second how many are open, and at once when some have gone: who comes next is given to the one that has fewer.
When the line ends the parent is gone, and the worker drains.
"""

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, MutableSequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any

from fastapi import FastAPI
from prometheus_client import values

from app.logs import configure_logging
from app.neighbours import Neighbours
from app.server import Server, run
from app.settings import Settings
from model.checkpoint import CheckpointError

AT_ONCE = 0.001
"""Seconds in which connections that go together are told together."""


class Connections(set[Any]):
    """Open connections, as uvicorn keeps them; `gone` is called for each that has been closed."""

    def __init__(self, gone: Callable[[], None]) -> None:
        super().__init__()
        self._gone = gone

    def discard(self, connection: Any) -> None:
        """Forget a connection."""
        super().discard(connection)
        self._gone()


class Worker(Server):
    """A server that is told by its parent when to end; a signal lets it drain, however often it comes."""

    linger = 0.0  # the others answer the probes
    orphaned = dismissed = False

    def __init__(self, settings: Settings, line: socket.socket, neighbours: Neighbours) -> None:
        super().__init__(settings)
        self.app.state.engine.device.neighbours = neighbours
        line.setblocking(False)
        self._line = line
        self._taken = 0
        self._telling = False
        self.server_state.connections = Connections(self._tell_soon)
        self._inner = self.app.router.lifespan_context
        self.app.router.lifespan_context = self._lifespan
        self.app.state.reloading.tell_others = partial(self._say, "reloaded")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Get warm, then take connections and signals, which were held back since the parent began to start this."""
        await super().startup(sockets)
        asyncio.get_running_loop().add_reader(self._line, self._hear)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn's signature
        """Begin to drain: a signal to the whole group comes besides what the parent says, and is no second one."""
        self.drain()

    def drain(self) -> None:
        """Take no more work; the others are given the connections, unless they drain as well."""
        super().drain()
        self._say("draining")

    def finish(self) -> None:
        """The house is empty: end as soon as nobody is sent here any more."""
        self._say("done")
        self.should_exit = self.should_exit or self.dismissed

    def dismiss(self) -> None:
        """Nobody is sent here any more."""
        self.dismissed = True

    def fend_for_itself(self) -> None:
        """The parent is gone."""
        asyncio.get_running_loop().remove_reader(self._line)
        self.orphaned = self.dismissed = True
        self.drain()

    async def on_tick(self, counter: int) -> bool:
        """Tell what the others and the parent cannot see of this process."""
        self.app.state.metrics.look()
        self._tell()
        return await super().on_tick(counter)

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        async with self._inner(app):
            if not await app.state.engine.warmed():
                self._say("failed the model does not get warm; the log says why")
                raise RuntimeError("the model does not get warm")
            self._say("warm")
            yield

    def _tell_soon(self) -> None:
        if not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_later(AT_ONCE, self._tell)

    def _tell(self) -> None:
        self._telling = False
        self._say(f"inside {len(self.server_state.connections)} {self._taken}")

    def _say(self, word: str) -> None:
        with suppress(OSError):  # the parent is gone: `_hear` will notice
            self._line.send(word.encode())

    def _hear(self) -> None:
        does = {
            b"drain": self.drain,
            b"leave": self.leave,
            b"reload": self.handle_reload,
            b"end": self.dismiss,
            b"": self.fend_for_itself,
        }
        while not self.orphaned and (heard := self._heard()):
            word, connections = heard
            if word == b"caller":
                self._taken += 1
                for connection in connections:  # there is none where this process may open no more files
                    self.take(socket.socket(fileno=connection))
            elif word.startswith(b"spare"):
                self.door.spare = int(word.split()[1])
            else:
                does[word]()

    def _heard(self) -> tuple[bytes, list[int]] | None:
        try:
            word, connections, *_ = socket.recv_fds(self._line, 64, 1)
        except BlockingIOError:
            return None
        except ConnectionError:
            return b"", []
        return word, connections


def work(settings: Settings, number: int, line: socket.socket, places: MutableSequence[int]) -> None:
    """Serve as worker `number` whom the parent sends over the line; exit code 0 when drained.

    What the user can mend is told to the parent, who tells it once.
    """
    configure_logging(settings, number)
    values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]
    try:
        worker = Worker(settings, line, Neighbours(places, number))
    except (ValueError, CheckpointError, OSError) as error:
        line.send(f"failed {error}".encode())
        sys.exit(2)
    run(worker)
    if worker.orphaned:
        shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)  # as the parent would have
