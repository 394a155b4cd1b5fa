"""Structured logs on stderr, as JSON objects or as text, written without blocking.

Lines wait in a bounded buffer. They are written together once there are enough of them, by the thread that logs, and
otherwise soon after by a thread of the handler. While stderr takes nothing, lines that do not fit into the buffer are
dropped, counted, and reported once lines can be written again. API keys are redacted in every line.
"""

import json
import logging.config
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson

from app.observability.redaction import Redactor
from app.observability.stderr import ATOMIC, STDERR, nonblocking_stderr, wait_until_writable
from app.settings import Settings

log = logging.getLogger(__name__)

MAX_BUFFERED = 2**20
"""Bytes of log lines in the buffer, about 4,000 lines."""

INTERVAL = 0.1
"""Seconds after which lines are written, however few they are."""

FLUSH = 1.0
"""Seconds that a flush takes at most, such as the one at the end of the process."""

_REQUEST_FIELDS = ("path", "ms", "request_id")
_RECORD_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message"}
"""Names in every record, and uvicorn's second copy of its message; all others are fields of the line."""

_INFO = logging.LogRecord("", logging.INFO, "", 0, "", None, None).__dict__
"""The attributes of an empty record."""


class InfoRecord(logging.LogRecord):
    """A record of level INFO with `fields`, `created` seconds after the epoch.

    The position in the code and the rest that no line contains are empty.

    `Logger.handle` takes it. A complete record takes longer, which counts for a line that every request writes.
    """

    def __init__(self, name: str, message: str, fields: dict[str, Any], created: float) -> None:
        self.__dict__.update(_INFO)
        self.name, self.msg, self.fields = name, message, fields
        self.created = created
        self.msecs = created % 1 * 1000


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of a record besides those that every record has."""
    if isinstance(record, InfoRecord):
        return record.fields
    return {name: value for name, value in record.__dict__.items() if name not in _RECORD_FIELDS}


class TextFormatter(logging.Formatter):
    """Text lines for a terminal, with the fields of a request at the end."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        found = _fields_of(record)
        fields = [f"{name}={found[name]}" for name in _REQUEST_FIELDS if name in found]
        return "  ".join([super().formatMessage(record), *fields])


class JsonFormatter(logging.Formatter):
    """JSON objects, with the fields of the record and those that are the same in every line."""

    def __init__(self, static_fields: dict[str, Any]) -> None:
        super().__init__()
        self._static_fields = static_fields

    def format(self, record: logging.LogRecord) -> str:
        """Return the object; its text has no line end."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields_of(record),
            **self._static_fields,
        }
        if record.exc_info or record.exc_text:
            fields["exc_info"] = record.exc_text or self.formatException(record.exc_info)  # type: ignore[arg-type]
        try:
            return orjson.dumps(fields, str, orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # for half a surrogate pair, which the name of a file can have
            return json.dumps(fields, default=str)


class StderrHandler(logging.Handler):
    """A logging handler that writes to stderr. Its lock is held for the buffer and for all writes."""

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        super().__init__()
        self.dropped = 0
        """Lines that were not written: the buffer had no room, or the write failed."""
        self._reported = 0
        self._redactor = Redactor(keys) if keys else None
        self._write = nonblocking_stderr()
        self._lines: deque[bytes] = deque()
        self._size = 0  # of the lines, in bytes
        self._is_full = self._closed = False
        self._has_lines = threading.Event()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Format a record now, because the objects it refers to may change, and keep or write the line."""
        try:
            line = self._line(record)
        except Exception:  # noqa: BLE001  # as in the handlers of the standard library
            self.handleError(record)
            return
        if self._size + len(line) > MAX_BUFFERED:
            self.dropped += 1
            return
        if not self._lines:
            self._has_lines.set()
        self._lines.append(line)
        self._size += len(line)
        if self._size >= ATOMIC and not self._is_full:
            self._write_lines()

    def flush(self) -> None:
        """Write the lines that are kept, in `FLUSH` seconds at most."""
        until = time.monotonic() + FLUSH
        while not self._try_to_write() and (left := until - time.monotonic()) > 0:
            wait_until_writable(left)

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._has_lines.set()
        super().close()

    def _line(self, record: logging.LogRecord) -> bytes:
        redacted = self._redactor.redact_record(record) if self._redactor else record
        return f"{self.format(redacted)}\n".encode(errors="backslashreplace")

    def _run(self) -> None:
        while not self._closed:
            self._has_lines.wait()
            time.sleep(INTERVAL)
            self._has_lines.clear()
            while not self._try_to_write():
                wait_until_writable(None)

    def _try_to_write(self) -> bool:
        """Write all lines, and report those that were dropped; returns False if stderr has no room for them."""
        with self.lock:  # type: ignore[union-attr]  # logging has had handlers without one
            self._write_lines()
            if not self._is_full and self.dropped > self._reported:
                text = "%d log lines were dropped because stderr did not take them"
                count = self.dropped - self._reported
                self._reported = self.dropped
                self._lines.append(self._line(log.makeRecord(log.name, logging.WARNING, "", 0, text, (count,), None)))
                self._size += len(self._lines[-1])
                self._write_lines()
            return not self._is_full

    def _write_lines(self) -> None:
        """Write lines in pieces of at most `ATOMIC` bytes; a longer line is a piece of its own."""
        self._is_full = False
        while self._lines and not self._is_full:
            piece = [self._lines.popleft()]
            size = len(piece[0])
            while self._lines and size + len(self._lines[0]) <= ATOMIC:
                size += len(self._lines[0])
                piece.append(self._lines.popleft())
            self._size -= size
            self._write_piece(b"".join(piece), len(piece))

    def _write_piece(self, piece: bytes, lines: int) -> None:
        """Write a piece, and keep what stderr had no room for."""
        try:
            written = self._write(piece)
        except BlockingIOError:
            written = 0
        except OSError:
            self.dropped += lines
            return
        if written < len(piece):
            self._is_full = not written
            self._lines.appendleft(piece[written:])
            self._size += len(piece) - written


def configure_logging(settings: Settings, worker: int | None = None) -> None:
    """Send all loggers to stderr in the chosen format, without uvicorn's access log; lines name the worker, if any.

    Fields that no line contains are not looked up (the logging HOWTO, "Optimization").
    """
    logging._srcfile = None  # the position in the code
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.captureWarnings(capture=True)  # warnings of Python become log lines
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"lines": {"()": partial(_formatter, settings.log_format, worker)}},
            "handlers": {"stderr": {"()": StderrHandler, "keys": settings.keys(), "formatter": "lines"}},
            "root": {"level": settings.log_level.upper(), "handlers": ["stderr"]},
            "loggers": {"uvicorn.access": {"level": "WARNING"}},
        }
    )


def dropped_lines() -> int:
    """The number of log lines of this process that were not written."""
    return sum(handler.dropped for handler in logging.root.handlers if isinstance(handler, StderrHandler))


def _formatter(form: str, worker: int | None) -> logging.Formatter:
    if form == "text" or (form == "auto" and os.isatty(STDERR)):
        end = "" if worker is None else f"  [worker {worker}]"
        return TextFormatter(f"%(asctime)s %(levelname)-8s %(name)s  %(message)s{end}")
    return JsonFormatter({} if worker is None else {"worker": worker})
