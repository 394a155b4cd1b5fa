"""Structured logs on stderr: one JSON object a line, or one line for people."""

import logging.config

from pythonjsonlogger.core import RESERVED_ATTRS

from app.settings import Settings

_FORMATTERS = {
    "json": {
        "()": "pythonjsonlogger.orjson.OrjsonFormatter",
        "fmt": "%(asctime)s %(levelname)s %(name)s %(message)s",
        "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
        "reserved_attrs": [*RESERVED_ATTRS, "color_message"],  # uvicorn's second copy of its message
    },
    "text": {"format": "%(asctime)s %(levelname)-8s %(name)s  %(message)s"},
}


def configure_logging(settings: Settings) -> None:
    """Send every logger to stderr in the chosen format; uvicorn's access log is left to the edge's."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": _FORMATTERS,
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": settings.log_format}},
            "root": {"level": settings.log_level.upper(), "handlers": ["stderr"]},
            "loggers": {
                "uvicorn.access": {"level": "WARNING"},
                "python_multipart": {"level": "ERROR"},  # its warnings are what callers did; they are told in a 400
            },
        }
    )
