"""Structured logs on stderr: one JSON object a line, or one line for people."""

import logging
import logging.config
from datetime import UTC, datetime

import orjson

from app.settings import Settings

_USUAL = {*logging.makeLogRecord({}).__dict__, "message", "taskName", "color_message"}
"""What every record has, and uvicorn's second copy of its message; the rest is what a line tells besides."""


class JsonLines(logging.Formatter):
    """A record as a JSON object: when, how severe, whose, what, and whatever else it was given."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._worker,
            **{name: value for name, value in record.__dict__.items() if name not in _USUAL},
        }
        if record.exc_info:
            line["exc_info"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def configure_logging(settings: Settings, worker: int | None = None) -> None:
    """Send every logger to stderr in the chosen format; uvicorn's access log is left to the edge's.

    Of several workers each names itself.
    """
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line tells them
    text = "%(asctime)s %(levelname)-8s %(name)s  %(message)s" + ("" if worker is None else f"  [worker {worker}]")
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"json": {"()": JsonLines, "worker": worker}, "text": {"format": text}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": settings.log_format}},
            "root": {"level": settings.log_level.upper(), "handlers": ["stderr"]},
            "loggers": {
                "uvicorn.access": {"level": "WARNING"},
                "python_multipart": {"level": "ERROR"},  # its warnings are what callers did; they are told in a 400
            },
        }
    )
