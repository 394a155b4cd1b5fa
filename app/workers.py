"""Several serving processes on one port, because one Python process cannot use a machine's cores, and their parent.

The parent serves nobody and loads no model. It passes on what it is told to do, and puts another worker in the place of
one that dies; where no set of workers ever gets warm, it ends the service and says why.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prometheus_client.multiprocess import mark_process_dead

from app.machine import resolve
from app.port import reserved, url
from app.settings import Settings

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""Times that a worker may die before it is warm, while the service has never been whole."""

LONGEST_PAUSE = 30.0
"""Seconds before the next attempt, at most."""

_SPAWN = multiprocessing.get_context("spawn")
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if sys.platform != "win32" else ()


def serve(settings: Settings) -> None:
    """Serve until a signal, by as many processes as the settings say; one needs no parent.

    Raises `OSError` for a port that is taken, `ChildProcessError` where the workers cannot start. Ends the process with
    1 if one of them did not end as it should.
    """
    settings = resolve(settings)
    if settings.workers == 1:
        from app.server import serve as serve_alone  # noqa: PLC0415  # it brings torch, which the parent does without

        serve_alone(settings)
        return
    with reserved(settings.host, settings.port) as port, tempfile.TemporaryDirectory(prefix="vae-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # where the workers add up what they count
        settings = settings.model_copy(update={"port": port})
        sys.exit(asyncio.run(Workers(settings, folder).run()))


def _work(settings: Settings, number: int, line: socket.socket) -> None:
    from app.worker import work  # noqa: PLC0415  # as above

    work(settings, number, line)


class Child:
    """A worker as its parent sees it: `warm` since it said so, `failure` what it could not start with."""

    def __init__(self, settings: Settings, number: int) -> None:
        self.warm = False
        self.failure = ""
        self.number = number
        self.line, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.line.setblocking(False)
        self.process = _SPAWN.Process(target=_work, args=(settings, number, its), name=f"worker {number}")
        with its, _held_back():
            self.process.start()
        log.info("worker %d is process %d", number, self.process.pid)

    def say(self, word: str) -> None:
        """Tell it to drain, leave or reload."""
        with suppress(OSError):  # it is gone
            self.line.send(word.encode())

    async def hear(self) -> str:
        """Its next word, none when it is gone."""
        try:
            return (await asyncio.get_running_loop().sock_recv(self.line, 65_536)).decode()
        except ConnectionError:
            return ""

    async def ended(self) -> int:
        """Its exit code."""
        await asyncio.to_thread(self.process.join)
        self.line.close()
        return self.process.exitcode or 0


class Workers:
    """The parent: a place for each worker, and in it one after another."""

    def __init__(self, settings: Settings, folder: str) -> None:
        self._settings = settings
        self._folder = folder
        self._children: dict[int, Child] = {}
        self._whole = False
        self._ending = asyncio.Event()
        self._failure = ""
        self._code = 0

    async def run(self) -> int:
        """Keep the workers until a signal, and until they have drained; the exit code."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.end)
        loop.add_signal_handler(signal.SIGINT, self.end)
        loop.add_signal_handler(signal.SIGHUP, self._tell_all, "reload")
        log.info("%d workers on %s", self._settings.workers, url(self._settings.host, self._settings.port))
        await asyncio.gather(*(self._keep(number) for number in range(self._settings.workers)))
        if self._failure:
            raise ChildProcessError(self._failure)
        return self._code

    def end(self) -> None:
        """Let the workers drain; the second time, leave. One that does not listen yet has accepted nothing."""
        word = "leave" if self._ending.is_set() else "drain"
        self._ending.set()
        for child in self._children.values():
            child.say(word) if child.warm else child.process.kill()

    def _tell_all(self, word: str, but: Child | None = None) -> None:
        for child in self._children.values():
            if child is not but:
                child.say(word)

    async def _keep(self, number: int) -> None:
        cold = 0
        while not self._ending.is_set():
            child = self._children[number] = Child(self._settings, number)
            while word := await child.hear():
                self._heed(child, word)
            code = await child.ended()
            mark_process_dead(number, self._folder)  # type: ignore[no-untyped-call]
            cold = 0 if child.warm else cold + 1
            self._judge(child, code, cold)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), min(2.0 ** max(0, cold - 1) - 1, LONGEST_PAUSE))

    def _heed(self, child: Child, word: str) -> None:
        if word == "warm":
            child.warm = True
            self._whole = self._whole or all(child.warm for child in self._children.values())
        elif word == "reloaded":
            self._tell_all("reload", but=child)
        else:
            child.failure = word.removeprefix("failed ")

    def _judge(self, child: Child, code: int, cold: int) -> None:
        if self._ending.is_set():
            self._code = self._code or int(child.warm and code != 0)
        elif self._whole or (cold < ATTEMPTS and not child.failure):
            why = child.failure or f"exit code {code}"
            log.error("worker %d has ended: %s; another takes its place", child.number, why)
        else:
            self._failure = child.failure or f"a worker died {cold} times before it was warm, with exit code {code}"
            self.end()


@contextmanager
def _held_back() -> Iterator[None]:
    """Signals wait meanwhile; a process that is started here inherits that, and takes them when it can heed them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
