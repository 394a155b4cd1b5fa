"""Structured logs on stderr, as JSON objects or as text, written by a thread.

The thread takes the lines from a bounded queue, so that a full pipe does not block the service. Lines that do not fit
into the queue are dropped, counted, and reported once lines can be written again. API keys are redacted in every line.
"""

import logging.config
import os
import select
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue

from pythonjsonlogger.core import RESERVED_ATTRS

from app.observability.redaction import Redactor
from app.settings import Settings

log = logging.getLogger(__name__)

STDERR = 2
"""The file descriptor."""

MAX_QUEUED = 2**20
"""Bytes of log lines in the queue, about 4,000 lines."""

INTERVAL = 0.1
"""Seconds for which lines are collected and then written together."""

FLUSH = 1.0
"""Seconds that a flush takes at most, such as the one at the end of the process."""

ATOMIC = 4096
"""Bytes that a pipe accepts in one piece (PIPE_BUF of Linux), so that lines of several workers do not mix."""

_REQUEST_FIELDS = ("path", "ms", "request_id")


class TextFormatter(logging.Formatter):
    """Text lines for a terminal, with the fields of a request at the end."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        fields = [f"{name}={getattr(record, name)}" for name in _REQUEST_FIELDS if hasattr(record, name)]
        return "  ".join([super().formatMessage(record), *fields])


class StderrHandler(logging.Handler):
    """A logging handler that writes to stderr in a daemon thread.

    Each counter is changed by one thread only: the writer, or the thread that holds the lock of the handler.
    """

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        super().__init__()
        self._redactor = Redactor(keys)
        self._put = self._taken = 0  # bytes
        self._refused = self._failed = self._reported = 0  # lines
        self._queue: SimpleQueue[bytes | threading.Event | None] = SimpleQueue()  # put() is safe in signal handlers
        threading.Thread(target=self._run, name="log", daemon=True).start()

    @property
    def dropped(self) -> int:
        """Lines that were not written: the queue had no room, or the write failed."""
        return self._refused + self._failed

    def emit(self, record: logging.LogRecord) -> None:
        """Format a record now, because the objects it refers to may change, and queue the line."""
        try:
            line = self._line(record)
        except Exception:  # noqa: BLE001  # as in the handlers of the standard library
            self.handleError(record)
            return
        if self._put - self._taken + len(line) > MAX_QUEUED:
            self._refused += 1
        else:
            self._put += len(line)
            self._queue.put(line)

    def flush(self) -> None:
        """Wait until the lines that are queued now are written, `FLUSH` seconds at most."""
        written = threading.Event()
        self._queue.put(written)
        written.wait(FLUSH)

    def close(self) -> None:
        """End the thread after the lines that are queued now."""
        self._queue.put(None)
        super().close()

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(self._redactor.redact_record(record))}\n".encode(errors="backslashreplace")

    def _run(self) -> None:
        open_ = True
        while open_:
            batch = self._batch()
            lines = [line for line in batch if isinstance(line, bytes)]
            for piece in _pieces(lines):
                self._failed += 0 if _write(b"".join(piece)) else len(piece)
            self._report()
            self._taken += sum(map(len, lines))
            for written in batch:
                if isinstance(written, threading.Event):
                    written.set()
            open_ = None not in batch

    def _batch(self) -> list[bytes | threading.Event | None]:
        batch = [self._queue.get()]
        time.sleep(INTERVAL)
        with suppress(Empty):
            while True:
                batch.append(self._queue.get_nowait())
        return batch

    def _report(self) -> None:
        if (dropped := self.dropped) > self._reported:
            text = "%d log lines were dropped because stderr did not take them"
            record = log.makeRecord(log.name, logging.WARNING, "", 0, text, (dropped - self._reported,), None)
            if _write(self._line(record)):
                self._reported = dropped


_FORMATTERS: dict[str, dict[str, object]] = {
    "json": {
        "()": "pythonjsonlogger.orjson.OrjsonFormatter",
        "fmt": "%(levelname)s %(name)s %(message)s",
        "timestamp": "time",
        "rename_fields": {"levelname": "level", "name": "logger"},
        "reserved_attrs": [*RESERVED_ATTRS, "color_message"],  # uvicorn's second copy of its message
    },
    "text": {"()": TextFormatter, "fmt": "%(asctime)s %(levelname)-8s %(name)s  %(message)s"},
}


def configure_logging(settings: Settings, worker: int | None = None) -> None:
    """Send all loggers to stderr in the chosen format, without uvicorn's access log; lines name the worker, if any.

    Fields that no line contains are not looked up (the logging HOWTO, "Optimization").
    """
    logging._srcfile = None  # the position in the code
    form = settings.log_format if settings.log_format != "auto" else "text" if os.isatty(STDERR) else "json"
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.captureWarnings(capture=True)  # warnings of Python become log lines
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": _FORMATTERS if worker is None else _named(worker),
            "handlers": {"stderr": {"()": StderrHandler, "formatter": form, "keys": settings.keys()}},
            "root": {"level": settings.log_level.upper(), "handlers": ["stderr"]},
            "loggers": {
                "uvicorn.access": {"level": "WARNING"},
            },
        }
    )


def dropped_lines() -> int:
    """The number of log lines of this process that were not written."""
    return sum(handler.dropped for handler in logging.root.handlers if isinstance(handler, StderrHandler))


def _named(worker: int) -> dict[str, dict[str, object]]:
    text = f"{_FORMATTERS['text']['fmt']}  [worker {worker}]"
    return {
        "json": {**_FORMATTERS["json"], "static_fields": {"worker": worker}},
        "text": {**_FORMATTERS["text"], "fmt": text},
    }


def _pieces(lines: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Group lines into pieces of at most `ATOMIC` bytes; a longer line is a piece of its own."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) > ATOMIC:
            yield piece
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    if piece:
        yield piece


def _write(content: bytes) -> bool:
    """Write to stderr; whether all of it was written."""
    rest = memoryview(content)
    while rest:
        try:
            rest = rest[os.write(STDERR, rest) :]
        except BlockingIOError:  # another process has made the descriptor non-blocking
            waiting = select.poll()
            waiting.register(STDERR, select.POLLOUT)
            waiting.poll()
        except OSError:
            return False
    return True
