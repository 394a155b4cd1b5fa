"""Incremental parser of requests: one request at a time, with a bounded amount of work for each step.

The HTTP parser parses everything that it is given, however many requests that is. So it is given pieces in which at
most one request ends: a head up to its empty line, a body up to its length, chunks up to each empty line.
"""

from typing import Any, Protocol

import httptools

from app.errors import BadRequest, RequestHeaderFieldsTooLarge, UriTooLong
from app.http.protocol.head_rules import (
    MAX_LENGTH_DIGITS,
    Headers,
    body_length,
    combined,
    origin_form,
    refusal,
    require_host,
    without_trailing_space,
    without_upgrade,
)

MAX_HEADER_BYTES = 2**16
"""Bytes of a request line with its header fields, and of chunk headers between two pieces of a body."""

MAX_LINE_BYTES = 2**13
"""Bytes of a request line, about what RFC 9112, 3 recommends."""

MAX_HEADER_FIELDS = 100
"""Header fields of a request; browsers behind several proxies send about 40."""

MAX_EMPTY_LINE_BYTES = 16
"""Bytes of empty lines that are ignored before a request line (RFC 9112, 2.2)."""

MAX_CHUNKED_BYTES_PER_STEP = 2**14
"""Bytes of a chunked body that are parsed in one step. Chunks of one byte each take a millisecond."""

_TOO_LONG = f"the request headers exceed {MAX_HEADER_BYTES} bytes"
_TOKEN = frozenset(b"!#$%&'*+.^_`|~-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")

Data = bytes | bytearray


class _Unparsable(Exception):
    """Bytes that the parser rejects."""


class RequestHandler(Protocol):
    """Receiver of the events of each request."""

    def on_request(
        self, method: str, path: bytes, query: bytes, headers: Headers, old: bool, expects: bool, keep_alive: bool
    ) -> None:
        """Handle a complete head; `old` means HTTP/1.0, `expects` that the client waits for 100 (Continue)."""

    def on_body(self, body: bytes, *, is_last: bool = False) -> None:
        """Handle a piece of the body, which may be the last one."""

    def on_end(self) -> None:
        """Handle the end of a body without a piece marked as last, or of a request without a body."""


class RequestReader:
    """The callbacks of the HTTP parser, and the limits around them.

    `in_body` is true from the end of a request's head to the end of its body.
    """

    def __init__(self, handler: RequestHandler) -> None:
        self.in_body = False
        self._handler = handler
        self._searched = 0  # bytes of an incomplete head that have been searched for its end
        self._skipped = 0  # bytes of empty lines before the head
        self._body_bytes_left: int | None = 0  # None for a chunked body
        self._header_bytes_left = MAX_HEADER_BYTES
        self._is_http_1_0 = self._head_parsed = False
        self._target = self._host = b""
        self._fields: Headers = []  # of the head, and then of the trailers
        self._parser: Any = httptools.HttpRequestParser(self)

    def close(self) -> None:
        """Drop references, so that no cycle is left."""
        del self._parser, self._handler

    def step(self, data: Data, start: int) -> int:
        """Parse a piece of `data` from `start` in which at most one request ends.

        Returns the number of bytes that were parsed; 0 if more bytes are needed, and then the same bytes are passed
        again. Raises `ServiceError` for bytes that are rejected; nothing can be parsed after them.
        """
        if self.in_body:
            return self._step_body(data, start)
        end = data.find(b"\r\n\r\n", start + self._searched) + 4
        line_end = data.find(b"\r\n", start)
        if end < 4 or end - start > MAX_HEADER_BYTES or line_end - start > MAX_LINE_BYTES or data[start] in b"\r\n":
            return self._step_unusual(data, start)
        old = not data.endswith(b" HTTP/1.1", start, line_end)
        if old and not data.endswith(b" HTTP/1.0", start, line_end):
            raise refusal(bytes(data[start:line_end]), "no version")
        self._searched, self._skipped, self._is_http_1_0, self._head_parsed = 0, 0, old, False
        try:
            if data.find(b"\t\r\n", start, end) >= 0:
                self._feed(without_trailing_space(bytes(data[start:end])))
            else:
                self._feed(data if end - start == len(data) else memoryview(data)[start:end])
            if not self._head_parsed:
                self._feed(self._without_upgrade())
        except _Unparsable as failure:
            raise refusal(bytes(data[start:line_end]), str(failure)) from None
        return end - start

    def _step_unusual(self, data: Data, start: int) -> int:
        """Handle bytes that are not a complete head within its limits: skip them, wait for more, or reject them."""
        if data[start] in b"\r\n":
            return self._skip_line_ends(data, start)
        length = len(data) - start
        if length > MAX_LINE_BYTES and data.find(b"\r\n", start, start + MAX_LINE_BYTES + 2) < 0:
            raise UriTooLong(f"the request line exceeds {MAX_LINE_BYTES} bytes")
        if length > MAX_HEADER_BYTES:
            raise RequestHeaderFieldsTooLarge(_TOO_LONG)
        if data[start] not in _TOKEN or _has_bare_line_feed(data, start + max(1, self._searched)):
            raise refusal(bytes(data[start:]).partition(b"\n")[0], "a line ends without a carriage return")
        self._searched = max(0, length - 3)
        return 0

    def _skip_line_ends(self, data: Data, start: int) -> int:
        piece = data[start : start + MAX_EMPTY_LINE_BYTES + 1]
        length = len(piece) - len(piece.lstrip(b"\r\n"))
        self._skipped += length
        if self._skipped > MAX_EMPTY_LINE_BYTES:
            raise BadRequest("expected a request line, got empty lines")
        return length

    def _step_body(self, data: Data, start: int) -> int:
        """Pass on a piece of a body of known length, which needs no parser; the parser is replaced at its end."""
        if self._body_bytes_left is None:
            return self._step_chunks(data, start)
        end = min(start + self._body_bytes_left, len(data))
        self._body_bytes_left -= end - start
        self.in_body = self._body_bytes_left > 0
        if not self.in_body:
            self._parser = httptools.HttpRequestParser(self)
        self._handler.on_body(bytes(memoryview(data)[start:end]), is_last=not self.in_body)
        return end - start

    def _step_chunks(self, data: Data, start: int) -> int:
        end = _end_of_chunks(data, start)
        self._header_bytes_left -= end - start
        try:
            self._feed(memoryview(data)[start:end])
        except _Unparsable as failure:
            raise BadRequest(f"expected a body in chunks (RFC 9112, 7.1): {failure}") from None
        if self._header_bytes_left < 0:
            raise RequestHeaderFieldsTooLarge(_TOO_LONG)
        if self._fields and not self.in_body:  # what trailers set in the parser must not reach the next request
            self._fields = []
            self._parser = httptools.HttpRequestParser(self)
        return end - start

    def _feed(self, piece: Any) -> None:
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            pass  # the head is parsed again without the upgrade
        except httptools.HttpParserCallbackError as failure:
            raise failure.__context__ or failure from None
        except httptools.HttpParserError as failure:
            raise _Unparsable(failure) from None

    def _without_upgrade(self) -> bytes:
        """Return the head without its upgrade fields: the parser would take the body for the other protocol."""
        if not self._parser.should_upgrade():
            raise _Unparsable("the head has no end")
        version = b"0" if self._is_http_1_0 else b"1"
        line = b"%s %s HTTP/1.%s" % (self._parser.get_method(), self._target, version)
        fields = [b"%s: %s" % field for field in without_upgrade(self._fields)]
        self._target, self._fields = b"", []
        self._parser = httptools.HttpRequestParser(self)
        return b"\r\n".join([line, *fields, b"", b""])

    # Callbacks of the parser

    def on_url(self, target: bytes) -> None:
        """Collect a piece of the request target."""
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header field, or a trailer field, which is discarded later (RFC 9110, 6.5.1)."""
        self._fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Check the complete head, unless it has to be parsed again without its upgrade."""
        parser, old = self._parser, self._is_http_1_0
        method, target = parser.get_method(), self._target
        if method == b"CONNECT" or target[:1] != b"/" or b"#" in target:
            target = origin_form(method, target)
        if len(self._fields) > MAX_HEADER_FIELDS:
            raise RequestHeaderFieldsTooLarge(
                f"expected at most {MAX_HEADER_FIELDS} header fields, got {len(self._fields)}"
            )
        if parser.should_upgrade():
            return
        headers = self._fields
        fields = dict(headers)
        if len(fields) < len(headers):
            fields = combined(headers)
        if fields.get(b"host") != self._host or not self._host:  # it rarely changes on a connection
            self._host = require_host(fields, old=old)
        length: int | None = 0
        if b"transfer-encoding" in fields or len(fields.get(b"content-length", b"")) > MAX_LENGTH_DIGITS:
            length = body_length(fields, old=old)
        elif b"content-length" in fields:
            length = int(fields[b"content-length"])
        expects = b"expect" in fields and length != 0 and not old and fields[b"expect"].lower() == b"100-continue"
        self._head_parsed, self._header_bytes_left, self._target, self._fields = True, MAX_HEADER_BYTES, b"", []
        self._body_bytes_left, self.in_body = length, True
        path, _, query = target.partition(b"?")
        keep_alive = not old and parser.should_keep_alive()
        self._handler.on_request(method.decode(), path, query, headers, old, expects, keep_alive)

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of a chunked body."""
        self._header_bytes_left = MAX_HEADER_BYTES
        self._handler.on_body(body)

    def on_message_complete(self) -> None:
        """End the request, unless its head has to be parsed again."""
        if self._head_parsed:
            self.in_body = False
            self._handler.on_end()


def _has_bare_line_feed(data: Data, start: int) -> bool:
    return data.count(b"\n", start) > data.count(b"\r\n", start - 1)


def _end_of_chunks(data: Data, start: int) -> int:
    """Return the end of the next empty line, with which the body may end; without one, of the searched bytes."""
    end = min(start + MAX_CHUNKED_BYTES_PER_STEP, len(data))
    if (found := data.find(b"\r\n\r\n", start, end)) >= 0:
        return found + 4
    for beginning in (b"\r\n\r", b"\r\n", b"\r"):
        if data.endswith(beginning, start, end):
            return end - len(beginning)
    return end
