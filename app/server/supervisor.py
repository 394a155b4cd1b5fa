"""Supervisor of several worker processes on one port, because one Python process cannot use all cores.

The supervisor loads no model and reads no request. It accepts connections and passes each one to the worker with the
fewest connections, rebalances keep-alive connections, forwards signals, and restarts workers that exit or hang. If the
workers cannot start, it ends the service and reports the reason.
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
from dataclasses import dataclass
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

from app.inference.core_sharing import shared_slots
from app.resources import with_worker_count
from app.server.listener import Listener
from app.server.messages import (
    Drain,
    Drained,
    ForceExit,
    Message,
    ModelReloaded,
    Ready,
    ReloadModel,
)
from app.server.open_files import fit_connections
from app.server.startup import ignore_signals, release_signals, without_collections
from app.server.worker_process import WorkerProcess, backoff
from app.settings import Settings
from model.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SupervisionPolicy:
    """Limits of supervision.

    A worker may exit `start_attempts` times before it is ready, as long as the workers have never all been ready. A
    ready worker, which sends ten messages a second, is killed after `heartbeat_timeout` seconds of silence. A worker
    that drains gets `exit_grace` seconds more after its last message and its graceful timeout. Connections are
    rebalanced every `rebalance_interval` seconds.
    """

    start_attempts: int = 3
    heartbeat_timeout: int = 30
    exit_grace: int = 10
    rebalance_interval: float = 0.25


def serve(settings: Settings, policy: SupervisionPolicy | None = None) -> None:
    """Serve until a signal, with the number of processes in the settings; a single one needs no supervisor.

    Raises `UserError` for a port that is in use, and if the workers cannot start. Exits with code 1 if a
    worker did not exit with 0 at the end.
    """
    settings = fit_connections(with_worker_count(settings))
    if settings.workers == 1:
        with without_collections():
            from app.server.server import serve as serve_single  # noqa: PLC0415  # it imports torch, see above

        serve_single(settings)
        return
    listener = Listener(settings.host, settings.port)
    sys.exit(asyncio.run(Supervisor(settings, listener, policy or SupervisionPolicy()).run()))


class Supervisor:
    """One slot for each worker; a worker that exits is replaced in its slot."""

    def __init__(self, settings: Settings, listener: Listener, policy: SupervisionPolicy) -> None:
        self._settings = settings
        self._listener = listener
        self._policy = policy
        self._workers: dict[int, WorkerProcess] = {}
        self._pending: deque[socket.socket] = deque()
        self._shared_slots = shared_slots(settings.workers)
        self._all_started = False
        self._stopping = asyncio.Event()
        self._failure = ""
        self._code = 0

    async def run(self) -> int:
        """Run the workers until a signal, and until they have drained; the exit code."""
        loop = asyncio.get_running_loop()
        self._callback_failed: asyncio.Future[None] = loop.create_future()
        loop.set_exception_handler(self._on_callback_failure)
        loop.add_signal_handler(signal.SIGTERM, self.shutdown)
        loop.add_signal_handler(signal.SIGINT, self.shutdown)
        loop.add_signal_handler(signal.SIGHUP, self._reload_all)
        release_signals()
        try:
            with tempfile.TemporaryDirectory(prefix="vae-", ignore_cleanup_errors=True) as self._metrics_folder:
                os.environ["PROMETHEUS_MULTIPROC_DIR"] = self._metrics_folder  # inherited by the workers
                await self._run_all()
        finally:
            self._close()
            ignore_signals()
        if self._failure:
            raise UserError(self._failure)
        return self._code

    def shutdown(self) -> None:
        """Let the workers drain; at the second call, let them exit at once."""
        message = ForceExit() if self._stopping.is_set() else Drain()
        self._stopping.set()
        for worker in self._workers.values():
            worker.stop(message)

    async def _run_all(self) -> None:
        """Run every slot. A failure of the supervisor itself ends the service with exit code 1."""
        try:
            async with asyncio.TaskGroup() as tasks:
                background = (self._kill_stuck(), self._rebalance(), self._wait_for_callback_failure())
                watching = [tasks.create_task(work) for work in background]
                slots = [tasks.create_task(self._run_slot(number)) for number in range(self._settings.workers)]
                await asyncio.wait(slots)
                for task in watching:
                    task.cancel()
        except ExceptionGroup as failures:
            log.critical("the supervisor failed: shutting down", exc_info=failures.exceptions[0])
            self._code = 1
            await self._abandon_all()

    async def _abandon_all(self) -> None:
        """Stop the workers without the tasks that run their slots, after the port is closed."""
        with suppress(Exception):  # the listener may be what has failed
            self._listener.close()
        seconds = self._settings.graceful_timeout_s + self._policy.exit_grace
        await asyncio.gather(*(worker.abandon(seconds) for worker in self._workers.values()))

    def _on_callback_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Treat an exception of an event-loop callback, such as the one that accepts connections, as fatal."""
        if (failure := context.get("exception")) and not self._callback_failed.done():
            self._callback_failed.set_exception(failure)
        else:
            loop.default_exception_handler(context)

    async def _wait_for_callback_failure(self) -> None:
        await self._callback_failed

    async def _run_slot(self, number: int) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                worker = WorkerProcess(self._settings, number, self._shared_slots)
            except OSError as failure:
                failures += 1
                seconds = backoff(failures + 1)
                self._on_start_error(f"worker {number} cannot be started: {failure.strerror}", failures, seconds)
            else:
                failures = await self._run_worker(worker, failures)
                seconds = backoff(failures)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _run_worker(self, worker: WorkerProcess, failures: int) -> int:
        """Handle a worker from start to exit; the number of consecutive exits in its slot before it was ready."""
        self._workers[worker.number] = worker
        while message := await worker.receive():
            self._on_message(worker, message)
            self._pass_pending()
        code = await worker.wait()
        mark_process_dead(worker.number, self._metrics_folder)  # type: ignore[no-untyped-call]
        del self._workers[worker.number]
        self._retire_drained()
        failures = 0 if worker.ready else failures + 1
        self._on_exit(worker, code, failures)
        return failures

    def _on_start_error(self, text: str, failures: int, seconds: float) -> None:
        """Log that the system refuses another process; give up if no worker is left and all attempts have failed."""
        if self._workers or failures < self._policy.start_attempts:
            log.error("%s; the next attempt is in %g s", text, seconds)
        else:
            self._failure = f"{text}, and no other is left"
            self.shutdown()

    async def _kill_stuck(self) -> None:
        """Kill workers that are silent for too long. Time in which the supervisor does not run is not counted."""
        while True:
            await asyncio.sleep(1)
            for worker in self._ready_workers():
                seconds = worker.count_second()
                if seconds == self._policy.heartbeat_timeout + (self._policy.exit_grace if worker.retired else 0):
                    log.error("worker %d: no heartbeat for %d s, killing it", worker.number, seconds)
                    worker.kill()

    async def _rebalance(self) -> None:
        """Rebalance keep-alive connections between workers, such as after one of them was restarted."""
        while True:
            await asyncio.sleep(self._policy.rebalance_interval)
            workers = [worker for worker in self._ready_workers() if worker.accepts_more()]
            fair_share = sum(worker.connections for worker in workers) / max(1, len(workers))
            for worker in workers:
                worker.rebalance(fair_share)

    def _ready_workers(self) -> list[WorkerProcess]:
        return [worker for worker in self._workers.values() if worker.ready]

    def _reload_all(self, but: WorkerProcess | None = None) -> None:
        for worker in self._workers.values():
            if worker is not but:
                worker.send(ReloadModel())

    def _on_message(self, worker: WorkerProcess, message: Message) -> None:
        match message:
            case Ready():
                self._on_ready()
            case ModelReloaded():
                self._reload_all(but=worker)
            case Drained():
                self._retire_drained()

    def _on_ready(self) -> None:
        self._listener.start(self._on_connection)
        if not self._all_started and len(self._ready_workers()) == self._settings.workers:
            self._all_started = True
            log.info("open %s", self._listener.address)

    def _on_exit(self, worker: WorkerProcess, code: int, failed_starts: int) -> None:
        if self._stopping.is_set():
            self._code = self._code or int(worker.ready and code != 0)
        elif self._all_started or (failed_starts < self._policy.start_attempts and not worker.failure):
            log.error("worker %d exited: %s; starting another", worker.number, worker.failure or f"exit code {code}")
        else:
            exited = f"a worker exited {failed_starts} times before it was ready, with exit code {code}"
            self._failure = worker.failure or exited
            self.shutdown()

    def _on_connection(self, connection: socket.socket) -> None:
        self._pending.append(connection)
        self._pass_pending()

    def _pass_pending(self) -> None:
        """Pass pending connections to the least loaded workers; stop accepting while no worker can receive one."""
        while self._pending and (
            worker := min(
                filter(WorkerProcess.can_accept, self._ready_workers()), key=WorkerProcess.load_key, default=None
            )
        ):
            if worker.hand_over(self._pending[0]):
                self._pending.popleft().close()
        if self._pending:
            self._listener.pause()
        else:
            self._listener.resume()

    def _retire_drained(self) -> None:
        """Retire drained workers; at shutdown only when all have drained, so that late connections still get a 503."""
        drained = [worker for worker in self._ready_workers() if worker.drained]
        if self._stopping.is_set():
            if len(drained) < len(self._ready_workers()):
                return
            self._listener.close()
        for worker in drained:
            worker.retire()

    def _close(self) -> None:
        self._listener.close()
        while self._pending:
            self._pending.popleft().close()
