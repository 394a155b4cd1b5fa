"""Several serving processes on one port, because one Python process cannot use a machine's cores, and their parent.

The parent loads no model and reads no request. It takes connections in and gives each to the worker that has the
fewest, lets one that has too many part with some, passes on what it is told to do, and puts another worker in the place
of one that dies or is stuck; where no set of workers ever gets warm, it ends the service and says why.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
from collections import deque
from contextlib import suppress
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

from app.inference.core_sharing import shared_slots
from app.resources import resolve
from app.server.listener import Listener
from app.server.open_files import fit_connections
from app.server.startup import ignore_signals, release_signals
from app.server.worker_process import WorkerProcess, pause
from app.settings import Settings

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""Times that a worker may die before it is warm, while the service has never been whole."""

SILENCE = 30
"""Seconds without a word after which a warm worker, which speaks ten times in each, is stuck."""

LAST = 10
"""Seconds after the last word of a worker that drains, beyond its time for that, in which it ends by itself."""

LOOK = 0.25
"""Seconds between two looks at who has how many connections; who has too many at two of them parts with some."""


def serve(settings: Settings) -> None:
    """Serve until a signal, by as many processes as the settings say; one needs no parent.

    Raises `OSError` for a port that is taken, `ChildProcessError` where the workers cannot start. Ends the process with
    1 if one of them did not end as it should.
    """
    settings = fit_connections(resolve(settings))
    if settings.workers == 1:
        from app.server.server import serve as serve_alone  # noqa: PLC0415  # it brings torch, which the parent does without

        serve_alone(settings)
        return
    reception = Listener(settings.host, settings.port)
    sys.exit(asyncio.run(Supervisor(settings, reception).run()))


class Supervisor:
    """The parent: a place for each worker, and in it one after another."""

    def __init__(self, settings: Settings, reception: Listener) -> None:
        self._settings = settings
        self._reception = reception
        self._children: dict[int, WorkerProcess] = {}
        self._lobby: deque[socket.socket] = deque()
        self._places = shared_slots(settings.workers)
        self._whole = False
        self._ending = asyncio.Event()
        self._failure = ""
        self._code = 0

    async def run(self) -> int:
        """Keep the workers until a signal, and until they have drained; the exit code."""
        loop = asyncio.get_running_loop()
        self._broken: asyncio.Future[None] = loop.create_future()
        loop.set_exception_handler(self._break)
        loop.add_signal_handler(signal.SIGTERM, self.end)
        loop.add_signal_handler(signal.SIGINT, self.end)
        loop.add_signal_handler(signal.SIGHUP, self._tell_all, "reload")
        release_signals()
        try:
            with tempfile.TemporaryDirectory(prefix="vae-", ignore_cleanup_errors=True) as self._folder:
                os.environ["PROMETHEUS_MULTIPROC_DIR"] = self._folder  # where the workers add up what they count
                await self._keep_all()
        finally:
            self._close()
            ignore_signals()
        if self._failure:
            raise ChildProcessError(self._failure)
        return self._code

    def end(self) -> None:
        """Let the workers drain; the second time, leave."""
        word = "leave" if self._ending.is_set() else "drain"
        self._ending.set()
        for child in self._children.values():
            child.end(word)

    async def _keep_all(self) -> None:
        """Keep each worker; a failure of the supervisor itself ends the service, with code 1."""
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = [tasks.create_task(work) for work in (self._watch(), self._even_out(), self._until_broken())]
                await asyncio.wait([tasks.create_task(self._keep(number)) for number in range(self._settings.workers)])
                for task in watching:
                    task.cancel()
        except ExceptionGroup as failures:
            log.critical("the supervisor has failed and ends the service", exc_info=failures.exceptions[0])
            self._code = 1
            await self._abandon()

    async def _abandon(self) -> None:
        """End the workers without the tasks that keep them; the port is closed first."""
        with suppress(Exception):  # it may be what has failed
            self._reception.close()
        seconds = self._settings.graceful_timeout_s + LAST
        await asyncio.gather(*(child.abandon(seconds) for child in self._children.values()))

    def _break(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A failure of a callback, such as one that takes connections in, is one of the supervisor."""
        if (failure := context.get("exception")) and not self._broken.done():
            self._broken.set_exception(failure)
        else:
            loop.default_exception_handler(context)

    async def _until_broken(self) -> None:
        await self._broken

    async def _keep(self, number: int) -> None:
        failures = 0
        while not self._ending.is_set():
            try:
                child = WorkerProcess(self._settings, number, self._places)
            except OSError as failure:
                failures += 1
                seconds = pause(failures + 1)
                self._cannot_start(f"worker {number} cannot be started: {failure.strerror}", failures, seconds)
            else:
                failures = await self._accompany(child, failures)
                seconds = pause(failures)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), seconds)

    async def _accompany(self, child: WorkerProcess, failures: int) -> int:
        """From the start of a worker to its end; how often in a row one of its number has died before it was warm."""
        self._children[child.number] = child
        while word := await child.hear():
            self._heed(child, *word.split(" ", 1))
            self._show_in()
        code = await child.ended()
        mark_process_dead(child.number, self._folder)  # type: ignore[no-untyped-call]
        del self._children[child.number]
        self._dismiss()
        failures = 0 if child.warm else failures + 1
        self._judge(child, code, failures)
        return failures

    def _cannot_start(self, text: str, failures: int, seconds: float) -> None:
        """The system has no process, file or memory for a worker: the others go on, and it is tried again."""
        if self._children or failures < ATTEMPTS:
            log.error("%s; the next attempt is in %g s", text, seconds)
        else:
            self._failure = f"{text}, and no other is left"
            self.end()

    async def _watch(self) -> None:
        """End those who are stuck; while this process sleeps as well, no second passes."""
        while True:
            await asyncio.sleep(1)
            for child in self._warm():
                child.silent += 1
                if child.silent == SILENCE + (LAST if child.dismissed else 0):
                    log.error("worker %d is stuck: it has said nothing for %d s", child.number, child.silent)
                    child.kill()

    async def _even_out(self) -> None:
        """Who was many callers' only worker once is not for as long as they keep their lines."""
        while True:
            await asyncio.sleep(LOOK)
            takers = [child for child in self._warm() if child.takes()]
            fair = sum(child.connections for child in takers) / max(1, len(takers))
            for child in takers:
                child.share(fair)

    def _warm(self) -> list[WorkerProcess]:
        return [child for child in self._children.values() if child.warm]

    def _tell_all(self, word: str, but: WorkerProcess | None = None) -> None:
        for child in self._children.values():
            if child is not but:
                child.say(word)

    def _heed(self, child: WorkerProcess, word: str, rest: str = "") -> None:
        match word:
            case "inside":
                child.count(*map(int, rest.split()))
            case "warm":
                child.warm = True
                self._reception.open(self._receive)
                if not self._whole and len(self._warm()) == self._settings.workers:
                    self._whole = True
                    log.info("open %s", self._reception.address)
            case "reloaded":
                self._tell_all("reload", but=child)
            case "draining":
                child.draining = True
            case "done":
                child.done = True
                self._dismiss()
            case "failed":
                child.failure = rest

    def _judge(self, child: WorkerProcess, code: int, cold: int) -> None:
        if self._ending.is_set():
            self._code = self._code or int(child.warm and code != 0)
        elif self._whole or (cold < ATTEMPTS and not child.failure):
            why = child.failure or f"exit code {code}"
            log.error("worker %d has ended: %s; another takes its place", child.number, why)
        else:
            self._failure = child.failure or f"a worker died {cold} times before it was warm, with exit code {code}"
            self.end()

    def _receive(self, connection: socket.socket) -> None:
        self._lobby.append(connection)
        self._show_in()

    def _show_in(self) -> None:
        """Give connections to whom has the fewest; where nobody takes any, no more are taken in."""
        while self._lobby and (
            child := min(filter(WorkerProcess.has_room, self._warm()), key=WorkerProcess.burden, default=None)
        ):
            if child.take(self._lobby[0]):
                self._lobby.popleft().close()
        self._reception.hold() if self._lobby else self._reception.go_on()

    def _dismiss(self) -> None:
        """Let those end who are done; when all are to end, together, so that somebody refuses who comes till then."""
        done = [child for child in self._warm() if child.done]
        if self._ending.is_set():
            if len(done) < len(self._warm()):
                return
            self._reception.close()
        for child in done:
            child.dismiss()

    def _close(self) -> None:
        self._reception.close()
        while self._lobby:
            self._lobby.popleft().close()
