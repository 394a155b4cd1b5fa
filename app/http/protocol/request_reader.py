"""Bytes of a connection to requests, one request at a time, each step bounded.

The parser goes through all that it is given, however many requests that is. So it is given pieces in which at most one
request ends: a head up to its empty line, a body up to its length, chunks up to each empty line.
"""

from typing import Any, Protocol

import httptools

from app.errors import BadRequest, RequestHeaderFieldsTooLarge, UriTooLong
from app.http.protocol.request_head import (
    Headers,
    body_length,
    combined,
    normalized,
    origin_form,
    refusal,
    require_host,
    without_upgrade,
)

LONGEST_HEAD = 2**16
"""Most bytes of a request line and its header fields, and of what may stand between two pieces of a body."""

LONGEST_LINE = 2**13
"""Most bytes of a request line: about what RFC 9112, 3 recommends, and far more than any target here needs."""

MAX_HEADER_FIELDS = 100
"""Header fields of a request; browsers behind several proxies send about 40."""

MAX_LINE_ENDS = 16
"""Bytes of empty lines that are ignored before a request line (RFC 9112, 2.2)."""

CHUNKS_AT_ONCE = 2**14
"""Bytes of a chunked body that are parsed in one step: of chunks of one byte each that takes a millisecond."""

_TOO_LONG = f"expected at most {LONGEST_HEAD} bytes that are no body, got more"
_TOKEN = frozenset(b"!#$%&'*+.^_`|~-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")

Data = bytes | bytearray


class _Unparsable(Exception):
    """The parser's reason to stop."""


class RequestHandler(Protocol):
    """What is told of each request."""

    def on_request(
        self, method: str, path: bytes, query: bytes, headers: Headers, old: bool, expects: bool, keep_alive: bool
    ) -> None:
        """A head is complete; `old` means HTTP/1.0, `expects` that the client waits for 100 (Continue)."""

    def on_body(self, body: bytes) -> None:
        """A piece of the body has come."""

    def on_end(self) -> None:
        """The body is complete."""


class RequestReader:
    """The parser's callbacks, and the bounds around them; `amid_body` is set from a request's head to its end."""

    def __init__(self, handler: RequestHandler) -> None:
        self.amid_body = False
        self._handler = handler
        self._searched = 0  # bytes of a head in which its end does not begin
        self._skipped = 0  # bytes of empty lines before a head
        self._missing: int | None = 0  # bytes of a body that have not come yet; None where it comes in chunks
        self._room = LONGEST_HEAD
        self._old = self._begun = False
        self._target = self._host = b""
        self._fields: Headers = []  # as they come, of the head and then of the trailers
        self._parser: Any = httptools.HttpRequestParser(self)

    def close(self) -> None:
        """Break the reference cycles."""
        del self._parser, self._handler

    def step(self, data: Data, start: int) -> int:
        """Parse a piece of `data` from `start` in which at most one request ends.

        The number of bytes that were used, 0 where more has to come first; they are given again with what follows.
        Raises `ServiceError` for what is refused; nothing that comes after it can be parsed.
        """
        if self.amid_body:
            return self._step_body(data, start)
        end = data.find(b"\r\n\r\n", start + self._searched) + 4
        line_end = data.find(b"\r\n", start)
        if end < 4 or end - start > LONGEST_HEAD or line_end - start > LONGEST_LINE or data[start] in b"\r\n":
            return self._step_apart(data, start)
        old = not data.endswith(b" HTTP/1.1", start, line_end)
        if old and not data.endswith(b" HTTP/1.0", start, line_end):
            raise refusal(bytes(data[start:line_end]), "no version")
        self._searched, self._skipped, self._old, self._begun = 0, 0, old, False
        try:
            self._feed(data if end - start == len(data) else memoryview(data)[start:end])
            if not self._begun:
                self._feed(self._without_upgrade())
        except _Unparsable as failure:
            raise refusal(bytes(data[start:line_end]), str(failure)) from None
        return end - start

    def _step_apart(self, data: Data, start: int) -> int:
        """What to do with what is no head within its bounds: skip it, wait, or refuse."""
        if data[start] in b"\r\n":
            return self._skip_line_ends(data, start)
        length = len(data) - start
        if length > LONGEST_LINE and data.find(b"\r\n", start, start + LONGEST_LINE + 2) < 0:
            raise UriTooLong(f"expected a request line of at most {LONGEST_LINE} bytes, got more")
        if length > LONGEST_HEAD:
            raise RequestHeaderFieldsTooLarge(_TOO_LONG)
        if data[start] not in _TOKEN or _has_bare_line_feed(data, start + max(1, self._searched)):
            raise refusal(bytes(data[start:]).partition(b"\n")[0], "a line ends without a carriage return")
        self._searched = max(0, length - 3)
        return 0

    def _skip_line_ends(self, data: Data, start: int) -> int:
        piece = data[start : start + MAX_LINE_ENDS + 1]
        length = len(piece) - len(piece.lstrip(b"\r\n"))
        self._skipped += length
        if self._skipped > MAX_LINE_ENDS:
            raise BadRequest("expected a request line, got empty lines")
        return length

    def _step_body(self, data: Data, start: int) -> int:
        if self._missing is None:
            end = _end_of_chunks(data, start)
            self._room -= end - start
        else:
            end = min(start + self._missing, len(data))
            self._missing -= end - start
        try:
            self._feed(memoryview(data)[start:end])
        except _Unparsable as failure:
            raise BadRequest(f"expected a body in chunks (RFC 9112, 7.1): {failure}") from None
        if self._room < 0:
            raise RequestHeaderFieldsTooLarge(_TOO_LONG)
        if self._fields and not self.amid_body:  # what trailers set in the parser must not reach the next request
            self._fields = []
            self._parser = httptools.HttpRequestParser(self)
        return end - start

    def _feed(self, piece: Any) -> None:
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            pass  # the head is parsed again
        except httptools.HttpParserCallbackError as failure:
            raise failure.__context__ or failure from None
        except httptools.HttpParserError as failure:
            raise _Unparsable(failure) from None

    def _without_upgrade(self) -> bytes:
        """The head without the fields that ask for another protocol, for which the parser would take the body."""
        if not self._parser.should_upgrade():
            raise _Unparsable("the head has no end")
        version = b"0" if self._old else b"1"
        line = b"%s %s HTTP/1.%s" % (self._parser.get_method(), self._target, version)
        fields = [b"%s: %s" % field for field in without_upgrade(normalized(self._fields))]
        self._target, self._fields = b"", []
        self._parser = httptools.HttpRequestParser(self)
        return b"\r\n".join([line, *fields, b"", b""])

    # The parser's callbacks

    def on_url(self, target: bytes) -> None:
        """A piece of the request target."""
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field, or a trailer field, which is discarded (RFC 9110, 6.5.1)."""
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is complete: check it, unless it has to be parsed again without its upgrade."""
        parser, old = self._parser, self._old
        method, target = parser.get_method(), self._target
        if method == b"CONNECT" or target[:1] != b"/" or b"#" in target:
            target = origin_form(method, target)
        if len(self._fields) > MAX_HEADER_FIELDS:
            raise RequestHeaderFieldsTooLarge(
                f"expected at most {MAX_HEADER_FIELDS} header fields, got {len(self._fields)}"
            )
        if parser.should_upgrade():
            return
        headers = normalized(self._fields)
        fields = dict(headers)
        if len(fields) < len(headers):
            fields = combined(headers)
        if fields.get(b"host") != self._host or not self._host:  # it seldom changes on a connection
            self._host = require_host(fields, old=old)
        length: int | None = 0
        expects = False
        if b"content-length" in fields or b"transfer-encoding" in fields:
            length = body_length(fields, old=old)
            expects = length != 0 and not old and fields.get(b"expect", b"").lower() == b"100-continue"
        self._begun, self._room, self._target, self._fields = True, LONGEST_HEAD, b"", []
        self._missing, self.amid_body = length, True
        path, _, query = target.partition(b"?")
        keep_alive = not old and parser.should_keep_alive()
        self._handler.on_request(method.decode(), path, query, headers, old, expects, keep_alive)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._room = LONGEST_HEAD
        self._handler.on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete, unless it has to be parsed again."""
        if self._begun:
            self.amid_body = False
            self._handler.on_end()


def _has_bare_line_feed(data: Data, start: int) -> bool:
    return data.count(b"\n", start) > data.count(b"\r\n", start - 1)


def _end_of_chunks(data: Data, start: int) -> int:
    """The end of an empty line, with which the body may end, else as much as surely holds none."""
    end = min(start + CHUNKS_AT_ONCE, len(data))
    if (found := data.find(b"\r\n\r\n", start, end)) >= 0:
        return found + 4
    for beginning in (b"\r\n\r", b"\r\n", b"\r"):
        if data.endswith(beginning, start, end):
            return end - len(beginning)
    return end
