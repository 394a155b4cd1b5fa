"""One of several serving processes: it listens once it is warm, so that no request comes that it must refuse.

Its parent says drain, leave or reload over a line; when the line ends, the parent is gone, and the worker drains.
"""

import asyncio
import gc
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import FrameType

from fastapi import FastAPI
from prometheus_client import values

from app.logs import configure_logging
from app.port import share
from app.server import Server, run
from app.settings import Settings
from model.checkpoint import CheckpointError


class Worker(Server):
    """A server that is told by its parent when to end; a signal lets it drain, however often it comes."""

    linger = 0.0  # the others answer the probes
    orphaned = False

    def __init__(self, settings: Settings, line: socket.socket) -> None:
        super().__init__(settings)
        line.setblocking(False)
        self._line = line
        self._inner = self.app.router.lifespan_context
        self.app.router.lifespan_context = self._lifespan
        self.app.state.reloading.tell_others = partial(self._say, "reloaded")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Get warm, then listen, then take signals, which were held back since the parent began to start this."""
        await super().startup(sockets)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn's signature
        """Begin to drain: a signal to the whole group comes besides what the parent says, and is no second one."""
        self.drain()

    async def on_tick(self, counter: int) -> bool:
        """Tell what the others cannot see of this process."""
        self.app.state.metrics.look()
        return await super().on_tick(counter)

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        async with self._inner(app):
            if not await app.state.engine.warmed():
                self._say("failed the model does not get warm; the log says why")
                raise RuntimeError("the model does not get warm")
            self._say("warm")
            hearing = asyncio.create_task(self._hear())
            yield
            hearing.cancel()

    def _say(self, word: str) -> None:
        with suppress(OSError):  # the parent is gone: `_hear` will notice
            self._line.send(word.encode())

    async def _hear(self) -> None:
        does = {b"drain": self.drain, b"leave": self.leave, b"reload": self.handle_reload}
        while word := await asyncio.get_running_loop().sock_recv(self._line, 64):
            does[word]()
        self.orphaned = True
        self.drain()


def work(settings: Settings, number: int, line: socket.socket) -> None:
    """Serve as worker `number` on the port of the settings, which the parent has reserved; exit code 0 when drained.

    What the user can mend is told to the parent, who tells it once.
    """
    configure_logging(settings, number)
    values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]
    try:
        worker = Worker(settings, line)
    except (ValueError, CheckpointError, OSError) as error:
        line.send(f"failed {error}".encode())
        sys.exit(2)
    gc.freeze()
    run(worker, share(settings.host, settings.port))
    if worker.orphaned:
        shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)  # as the parent would have
