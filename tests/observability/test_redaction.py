"""Redaction: keys are replaced in messages, arguments, extra fields and tracebacks, in all their spellings."""

import logging
import sys
from base64 import b64encode
from urllib.parse import quote

import pytest

from app.observability.logs import InfoRecord
from app.observability.redaction import MIN_FRAGMENT, Redactor

KEY = 'a "key"\\ é of the service'


@pytest.mark.parametrize("spelled", [KEY, repr(KEY)[1:-1], quote(KEY), KEY.encode().decode("latin-1")])
def test_a_key_is_redacted_in_every_spelling_in_which_text_is_logged(spelled):
    assert Redactor([KEY.encode()]).redact(f"<{spelled}> and <{spelled}>") == "<KEY> and <KEY>"


def test_a_key_in_basic_credentials_is_redacted():
    redactor = Redactor([b"0123456789abcdef"])
    for credentials in (b":0123456789abcdef", b"0123456789abcdef:"):
        assert redactor.redact(f"Basic {b64encode(credentials).decode()}.") == "Basic KEY."


def test_the_beginning_of_a_truncated_key_is_redacted():
    redactor = Redactor([b"0123456789abcdef", b"short"])
    for length in range(MIN_FRAGMENT, 16):
        assert redactor.redact(f"'{'0123456789abcdef'[:length]}'...") == "'KEY'..."
    assert redactor.redact("0123456 shor short") == "0123456 shor KEY"


def test_a_key_that_begins_with_another_key_is_redacted_completely():
    assert Redactor([b"secret-key", b"secret-key-of-another"]).redact("secret-key-of-another") == "KEY"


def test_every_part_of_a_record_is_redacted_and_the_record_itself_stays_as_it_is():
    try:
        int("hunter2")
    except ValueError:
        failure = sys.exc_info()
    record = logging.getLogger("app.x").makeRecord(
        "app.x", logging.ERROR, "", 0, "said %s", ("hunter2",), failure, extra={"path": "/hunter2", "status": 404}
    )
    redacted = Redactor([b"hunter2"]).redact_record(record)
    assert (redacted.getMessage(), redacted.path, redacted.status) == ("said KEY", "/KEY", 404)
    assert "ValueError: invalid literal for int() with base 10: 'KEY'" in logging.Formatter().format(redacted)
    assert "hunter2" not in str(redacted.__dict__)
    assert (record.getMessage(), record.path) == ("said hunter2", "/hunter2")


def test_the_fields_of_an_access_line_are_redacted():
    record = InfoRecord(
        "app.access", "GET other 404", {"path": "/hunter2", "status": 404, "more": {"a": "hunter2"}}, 0.0
    )
    redacted = Redactor([b"hunter2"]).redact_record(record)
    assert redacted.fields == {"path": "/KEY", "status": 404, "more": {"a": "KEY"}}
    assert record.fields["path"] == "/hunter2"
