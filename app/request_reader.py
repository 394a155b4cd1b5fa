"""Bytes of a connection to requests, one request at a time, each step bounded.

The parser goes through all that it is given, however many requests that is. So it is given pieces in which at most one
request ends: a head up to its empty line, a body up to its length, chunks up to each empty line.
"""

from enum import Enum, auto
from typing import Any, NamedTuple, Protocol

import httptools

from app.errors import HeadTooLarge, Malformed, TargetTooLong
from app.request_head import CHECKED, ONCE, Headers, body_length, refusal, require_host, split_target, without_upgrade

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


class Phase(Enum):
    """What the next byte of a connection belongs to."""

    HEAD = auto()
    BODY = auto()  # of a known length
    CHUNKS = auto()


class RequestHead(NamedTuple):
    """A request without its body; `old` means HTTP/1.0, `expects` that the client waits for 100 (Continue)."""

    method: str
    path: bytes
    query: bytes
    headers: Headers
    old: bool
    expects: bool
    keep_alive: bool


class RequestHandler(Protocol):
    """What is told of each request."""

    def on_request(self, head: RequestHead) -> None:
        """A head is complete."""

    def on_body(self, body: bytes) -> None:
        """A piece of the body has come."""

    def on_end(self) -> None:
        """The body is complete."""


class RequestReader:
    """The parser's callbacks, and the bounds around them; `phase` is `HEAD` between two requests."""

    def __init__(self, handler: RequestHandler) -> None:
        self.phase = Phase.HEAD
        self._handler = handler
        self._searched = 0  # bytes of a head in which it does not end
        self._missing = 0  # bytes of a body that have not come yet
        self._room = LONGEST_HEAD
        self._old = self._begun = self._trailers = False
        self._target = b""
        self._headers: Headers = []
        self._fields: dict[bytes, bytes] = {}
        self._parser: Any = httptools.HttpRequestParser(self)

    def close(self) -> None:
        """Break the reference cycles."""
        del self._parser, self._handler

    def step(self, data: Data, start: int) -> int:
        """Parse a piece of `data` from `start` in which at most one request ends.

        The number of bytes that were used, 0 where more has to come first; they are given again with what follows.
        Raises `ServiceError` for what is refused; nothing that comes after it can be parsed.
        """
        if self.phase is Phase.HEAD:
            return self._step_head(data, start)
        if self.phase is Phase.BODY:
            end = min(start + self._missing, len(data))
            self._missing -= end - start
        else:
            end = _end_of_chunks(data, start)
            self._room -= end - start
        try:
            self._feed(memoryview(data)[start:end])
        except _Unparsable as failure:
            raise Malformed(f"expected a body in chunks (RFC 9112, 7.1): {failure}") from None
        if self._room < 0:
            raise HeadTooLarge(_TOO_LONG)
        return end - start

    def _step_head(self, data: Data, start: int) -> int:
        if data[start] in b"\r\n":
            return _skip_line_ends(data, start)
        found = data.find(b"\r\n\r\n", start + max(0, self._searched - 3))
        length = (found + 4 if found >= 0 else len(data)) - start
        if length > LONGEST_LINE and data.find(b"\r\n", start, start + LONGEST_LINE + 2) < 0:
            raise TargetTooLong(f"expected a request line of at most {LONGEST_LINE} bytes, got more")
        if length > LONGEST_HEAD:
            raise HeadTooLarge(_TOO_LONG)
        if found >= 0:
            self._searched = 0
            self._parse_head(data, start, start + length)
            return length
        if data[start] not in _TOKEN or _has_bare_line_feed(data, start + max(1, self._searched)):
            raise refusal(bytes(data[start:]).partition(b"\n")[0], "a line ends without a carriage return")
        self._searched = length
        return 0

    def _parse_head(self, data: Data, start: int, end: int) -> None:
        line_end = data.find(b"\r\n", start)
        self._old = not data.endswith(b" HTTP/1.1", start, line_end)
        if self._old and not data.endswith(b" HTTP/1.0", start, line_end):
            raise refusal(bytes(data[start:line_end]), "no version")
        self._begun = False
        self._expect_head()
        try:
            self._feed(data if end - start == len(data) else memoryview(data)[start:end])
        except _Unparsable as failure:
            raise refusal(bytes(data[start:line_end]), str(failure)) from None
        if not self._begun:
            raise refusal(bytes(data[start:line_end]), "the head has no end")

    def _expect_head(self) -> None:
        self._target, self._headers, self._fields = b"", [], {}

    def _feed(self, piece: Any) -> None:
        upgrade = False
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            upgrade = True
        except httptools.HttpParserCallbackError as failure:
            raise failure.__context__ or failure from None
        except httptools.HttpParserError as failure:
            raise _Unparsable(failure) from None
        if upgrade:
            self._feed(self._without_upgrade())
        if self._trailers and self.phase is Phase.HEAD:  # what they set in the parser must not reach the next request
            self._trailers = False
            self._parser = httptools.HttpRequestParser(self)

    def _without_upgrade(self) -> bytes:
        """The head without the fields that ask for another protocol, for which the parser would take the body."""
        version = b"0" if self._old else b"1"
        line = b"%s %s HTTP/1.%s" % (self._parser.get_method(), self._target, version)
        fields = [b"%s: %s" % field for field in without_upgrade(self._headers)]
        self._parser = httptools.HttpRequestParser(self)
        self._expect_head()
        return b"\r\n".join([line, *fields, b"", b""])

    # The parser's callbacks

    def on_url(self, target: bytes) -> None:
        """A piece of the request target."""
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field; or a trailer field, which is discarded (RFC 9110, 6.5.1)."""
        if self.phase is not Phase.HEAD:
            self._trailers = True
            return
        if len(self._headers) == MAX_HEADER_FIELDS:
            raise HeadTooLarge(f"expected at most {MAX_HEADER_FIELDS} header fields, got more")
        name, value = name.lower(), value.rstrip(b" \t")
        if name in CHECKED:
            self._note(name, value)
        self._headers.append((name, value))

    def _note(self, name: bytes, value: bytes) -> None:
        if name in self._fields:
            if name in ONCE:
                raise Malformed(f"{ONCE[name]}: expected one such field, got more")
            value = self._fields[name] + b"," + value
        self._fields[name] = value

    def on_headers_complete(self) -> None:
        """The head is complete: check it, unless it has to be parsed again without its upgrade."""
        method, fields = self._parser.get_method(), self._fields
        path, query = split_target(method, self._target)
        if self._parser.should_upgrade():
            return
        require_host(fields, old=self._old)
        length = body_length(fields, old=self._old)
        expects = length != 0 and not self._old and fields.get(b"expect", b"").lower() == b"100-continue"
        self._begun, self._room = True, LONGEST_HEAD
        if length is None:
            self.phase = Phase.CHUNKS
        elif length:
            self.phase, self._missing = Phase.BODY, length
        keep_alive = not self._old and self._parser.should_keep_alive()
        self._handler.on_request(
            RequestHead(method.decode(), path, query, self._headers, self._old, expects, keep_alive)
        )

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._room = LONGEST_HEAD
        self._handler.on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete, unless it has to be parsed again."""
        if self._begun:
            self.phase = Phase.HEAD
            self._handler.on_end()


def _skip_line_ends(data: Data, start: int) -> int:
    piece = data[start : start + MAX_LINE_ENDS + 1]
    length = len(piece) - len(piece.lstrip(b"\r\n"))
    if length > MAX_LINE_ENDS:
        raise Malformed("expected a request line, got empty lines")
    return length


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
