"""Redaction of API keys in log records, in all text of clients that is logged."""

import copy
import json
import logging
from base64 import b64encode
from collections.abc import Collection
from typing import Any
from urllib.parse import quote

REDACTED = "KEY"
"""What a log has in place of a key."""

MIN_FRAGMENT = 8
"""Characters of the beginning of a key that are redacted where the rest is cut off; a shorter key must be complete."""

_STANDARD_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) - {"message"}


class Redactor:
    """Replaces keys in the message, the traceback and the extra fields of a log record.

    A key is found as it is, and in the spellings in which the text of a client is logged: read as latin-1, escaped as
    in a Python literal, percent-encoded, and as Basic credentials.
    """

    def __init__(self, keys: Collection[bytes]) -> None:
        texts = {text for key in keys for text in (key.decode(), key.decode("latin-1"))}
        spellings = texts | {repr(text)[1:-1] for text in texts} | {json.dumps(text)[1:-1] for text in texts}
        spellings |= {quote(text, safe=safe) for text in texts for safe in ("", "/")}
        spellings |= {b64encode(basic).decode() for key in keys for basic in (b":" + key, key + b":")}
        self._ends: dict[str, list[str]] = {}  # of the keys with the same beginning; long beginnings come first
        for spelling in sorted(spellings, key=len, reverse=True):
            self._ends.setdefault(spelling[:MIN_FRAGMENT], []).append(spelling[MIN_FRAGMENT:])

    def redact(self, text: str) -> str:
        """Return the text without keys."""
        for start, ends in self._ends.items():
            if start in text:
                head, *rest = text.split(start)
                text = REDACTED.join([head, *(piece[_overlap(piece, ends) :] for piece in rest)])
        return text

    def redact_record(self, record: logging.LogRecord) -> logging.LogRecord:
        """Return a copy of the record without keys."""
        redacted = copy.copy(record)
        redacted.msg, redacted.args = self.redact(record.getMessage()), None
        if record.exc_info:
            redacted.exc_text, redacted.exc_info = self.redact(_TRACEBACKS.formatException(record.exc_info)), None
        for name in record.__dict__.keys() - _STANDARD_FIELDS:
            setattr(redacted, name, self._redact_field(getattr(record, name)))
        return redacted

    def _redact_field(self, value: Any) -> Any:
        """Return a field without keys: a text, or a mapping with texts as values."""
        if isinstance(value, dict):
            return {name: self._redact_field(inner) for name, inner in value.items()}
        return self.redact(value) if isinstance(value, str) else value


_TRACEBACKS = logging.Formatter()


def _overlap(text: str, ends: Collection[str]) -> int:
    """Return how many characters at the beginning of the text belong to a key that ends in one of these ways."""
    return max(length for end in ends for length in range(len(end) + 1) if text.startswith(end[:length]))
