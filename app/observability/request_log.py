"""Records of finished requests: the counts in the metrics, and the lines of the access log.

Several records are written together. Written alone, a record takes a tenth of the time of a small request, most of it
to load code and data into the caches of the processor.
"""

import asyncio
import logging
from typing import NamedTuple
from urllib.parse import quote

from app.observability.logs import InfoRecord
from app.observability.metrics import Metrics

log = logging.getLogger("app.access")

FLUSH_SECONDS = 0.1
"""Seconds after which records are written, and counts for the scrapes of other workers."""

MAX_RECORDS = 16
"""Records that are written at once; more would delay the next request."""

MAX_LOGGED_PATH = 200
"""Characters of an unknown path in the access log."""


class FinishedRequest(NamedTuple):
    """A request that was answered or has ended, `finished` seconds after the epoch.

    `seconds` is the time of the whole request, `stages` the time of each stage. `path` is logged where it is set.
    """

    request_id: str
    method: str
    dialect: str
    endpoint: str
    status: int
    finished: float
    seconds: float
    stages: dict[str, float]
    body_bytes: int
    path: str | None


class RequestLog:
    """Keeps the records of finished requests until they are written."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._records: list[FinishedRequest] = []
        self._scheduled = False

    def add(self, request: FinishedRequest) -> None:
        """Keep a record. Needs a running event loop."""
        self._records.append(request)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush_in_time)
        if len(self._records) >= MAX_RECORDS:
            self._write_records()

    def flush(self) -> None:
        """Write all records and counts; only the event loop does."""
        self._write_records()
        self._metrics.write_counts()

    def _write_records(self) -> None:
        records, self._records = self._records, []
        for record in records:
            self._metrics.count_request(record.dialect, record.endpoint, record.status, record.seconds, record.stages)
        if log.isEnabledFor(logging.INFO):
            for record in records:
                log.handle(_line(record))

    def _flush_in_time(self) -> None:
        self._scheduled = False
        self.flush()


def _line(request: FinishedRequest) -> InfoRecord:
    fields = {
        "request_id": request.request_id,
        "method": request.method,
        "status": request.status,
        "ms": round(request.seconds * 1000, 3),
        "bytes_in": request.body_bytes,
    }
    for stage, seconds in request.stages.items():
        fields[f"{stage}_ms"] = round(seconds * 1000, 3)
    if request.path is not None:
        fields["path"] = quote(request.path[:MAX_LOGGED_PATH])[:MAX_LOGGED_PATH]  # breaks no line
    return InfoRecord(log.name, f"{request.method} {request.endpoint} {request.status}", fields, request.finished)
