"""Log records as JSON objects or text lines on stderr."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

LOG = """
import logging, sys
from app.observability.logs import configure_logging
from app.settings import Settings
configure_logging(Settings(log_format=sys.argv[1], log_level="warning"))
logging.getLogger("app.x").info("too quiet")
logging.getLogger("app.x").warning("said %d", 7, extra={"request_id": "an-id", "ms": 1.5, "path": "/x"})
logging.getLogger("app.x").warning("file %s", chr(0xD800) + ".json")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("uvicorn.error").exception("broke")
"""


@pytest.fixture(scope="module", params=["json", "text"])
def logged(request) -> tuple[str, list[str]]:
    command = [sys.executable, "-c", LOG, request.param]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout == ""
    return request.param, done.stderr.splitlines()


def test_every_line_has_time_level_logger_and_message(logged):
    form, lines = logged
    if form == "text":
        assert lines[0].split()[2:] == ["WARNING", "app.x", "said", "7", "path=/x", "ms=1.5", "request_id=an-id"]
        assert lines[1].split()[2:] == ["WARNING", "app.x", "file", "\\ud800.json"]
        assert lines[2].split()[2:] == ["ERROR", "uvicorn.error", "broke"]
        return
    said, file, broke = map(json.loads, lines)
    assert file["message"] == "file \ud800.json"
    assert {key: said[key] for key in ("level", "logger", "message", "request_id")} == {
        "level": "WARNING",
        "logger": "app.x",
        "message": "said 7",
        "request_id": "an-id",
    }
    assert abs(datetime.fromisoformat(said["time"]) - datetime.now(UTC)) < timedelta(minutes=5)
    assert (broke["level"], broke["message"]) == ("ERROR", "broke")
    assert "ZeroDivisionError" in broke["exc_info"]


def test_an_error_of_a_client_is_not_logged_as_a_warning(logged):
    assert not [line for line in logged[1] if "nonsense" in line]


WARN = """
import warnings
from app.observability.logs import configure_logging
from app.settings import Settings
configure_logging(Settings())
warnings.simplefilter("default")
for _ in range(3):
    warnings.warn("it is odd")
"""


def test_a_python_warning_is_logged_once():
    command = [sys.executable, "-c", WARN]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (line["level"], line["logger"]) == ("WARNING", "py.warnings")
    assert "UserWarning: it is odd" in line["message"]
