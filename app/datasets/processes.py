"""Encoding on several devices of a machine, by a process for each.

Each process lists the source itself and takes every n-th shard, so nothing but counts passes between them.
"""

import logging
import signal
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import NamedTuple

from app.codecs.images import configure_pillow_limits
from app.datasets.encode import EncodeJob, EncodeSummary, summary_of
from app.datasets.latent_encoder import LatentEncoder
from app.datasets.options import ProgressCallback
from app.datasets.tally import Tally
from app.resources import available_cpus
from model.errors import UserError

POLL_SECONDS = 0.5
"""Seconds after which processes are looked after that send nothing."""


class Report(NamedTuple):
    """What a process has done since its last report; `failure` says why it ends."""

    process: int
    images: int = 0
    errors: Sequence[tuple[str, str]] = ()
    waited: float = 0.0
    failure: str = ""


def encode_in_processes(job: EncodeJob, progress: ProgressCallback | None) -> EncodeSummary:
    """Encode a data set on all devices of a job, which has the model by its folder or name."""
    if not isinstance(job.model, str | Path):
        raise UserError("device: expected the model by its folder or name for several devices, got a model in memory")
    model = job.load()
    devices = job.hardware.devices
    waited = [0.0] * len(devices)
    with closing(job.store(model.spec)) as store:
        counts = job.count(store)
        tally = Tally(counts.missing, lambda: sum(waited) / len(waited), progress)
        context = get_context("spawn")
        reports: Queue[Report] = context.Queue()
        arguments = [(job, number, store.parts, reports) for number in range(len(devices))]
        processes = [context.Process(target=_encode_share, args=each, daemon=True) for each in arguments]
        try:
            for process in processes:
                process.start()
            while (report := _next(reports, processes)) is not None:
                tally.add(report.images, report.errors)
                waited[report.process] = report.waited or waited[report.process]
                if report.failure:
                    raise UserError(report.failure)
        finally:
            for process in processes:
                process.terminate()
                process.join()
        return summary_of(store, tally, counts, sum(waited) / len(waited))


def _next(reports: "Queue[Report]", processes: Sequence[BaseProcess]) -> Report | None:
    """Return the next report, or None once all processes have ended. Raises `UserError` for one that was killed."""
    while True:
        running = any(process.is_alive() for process in processes)
        try:
            return reports.get(timeout=POLL_SECONDS if running else 0.01)
        except Empty:
            failed = [process for process in processes if process.exitcode]
            if failed:
                raise UserError(f"device: a process ended with the code {failed[0].exitcode}") from None
            if not running:
                return None


def _encode_share(job: EncodeJob, number: int, parts: Sequence[int], reports: "Queue[Report]") -> None:
    """Encode every n-th shard on the device of this number."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    logging.basicConfig(level=logging.WARNING)
    configure_pillow_limits()
    devices = job.hardware.devices
    threads = job.hardware.threads or max(1, available_cpus() // len(devices))
    try:
        model = job.load()
        with LatentEncoder(model, job.options, replace(job.hardware, threads=threads), devices[number]) as encoder:
            tally = _ReportingTally(number, encoder, reports)
            store = job.store(model.spec, parts)
            encoder.write_shards(islice(job.spans(store), number, None, len(devices)), store, tally)
    except UserError as error:
        reports.put(Report(number, failure=str(error)))


class _ReportingTally(Tally):
    """Sends what is done to the first process."""

    def __init__(self, process: int, encoder: LatentEncoder, reports: "Queue[Report]") -> None:
        super().__init__(0, lambda: encoder.waited, None)
        self._process, self._encoder, self._reports = process, encoder, reports

    def add(self, images: int, errors: Sequence[tuple[str, str]] = ()) -> None:  # type: ignore[override]  # a sequence
        super().add(images, errors)
        self._reports.put(Report(self._process, images, tuple(errors), self._encoder.waited))
