"""Structured logs on stderr: one JSON object a line, or one line for people."""

import logging.config

from pythonjsonlogger.core import RESERVED_ATTRS

from app.settings import Settings

_OF_A_REQUEST = ("path", "ms", "request_id")


class Line(logging.Formatter):
    """A line for people; what it is about a request, if it is, comes behind."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        told = [f"{name}={getattr(record, name)}" for name in _OF_A_REQUEST if hasattr(record, name)]
        return "  ".join([super().formatMessage(record), *told])


_FORMATTERS: dict[str, dict[str, object]] = {
    "json": {
        "()": "pythonjsonlogger.orjson.OrjsonFormatter",
        "fmt": "%(levelname)s %(name)s %(message)s",
        "timestamp": "time",
        "rename_fields": {"levelname": "level", "name": "logger"},
        "reserved_attrs": [*RESERVED_ATTRS, "color_message"],  # uvicorn's second copy of its message
    },
    "text": {"()": Line, "fmt": "%(asctime)s %(levelname)-8s %(name)s  %(message)s"},
}


def configure_logging(settings: Settings, worker: int | None = None) -> None:
    """Send every logger to stderr in the chosen format; uvicorn's access log is left to the edge's.

    Of several workers each names itself. What no line tells is not looked up (the logging HOWTO, "Optimization").
    """
    logging._srcfile = None  # the place in the code
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": _FORMATTERS if worker is None else _named(worker),
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": settings.log_format}},
            "root": {"level": settings.log_level.upper(), "handlers": ["stderr"]},
            "loggers": {
                "uvicorn.access": {"level": "WARNING"},
            },
        }
    )


def _named(worker: int) -> dict[str, dict[str, object]]:
    text = f"{_FORMATTERS['text']['fmt']}  [worker {worker}]"
    return {
        "json": {**_FORMATTERS["json"], "static_fields": {"worker": worker}},
        "text": {**_FORMATTERS["text"], "fmt": text},
    }
