"""Parser of multipart bodies in memory (RFC 2046 5.1, RFC 7578), in time that is linear in their bytes.

The delimiters are found by `bytes.find`; Python code parses only the padding after a delimiter and the header fields of
a part, which have limited lengths. Every line that begins with the boundary must be a valid delimiter.
"""

import re
from typing import NamedTuple

from app.codecs.media_types import MULTIPART, parameters
from app.codecs.windows import find
from app.errors import BadRequest, ContentTooLarge, UnsupportedMediaType
from app.validation import quoted

MAX_PADDING = 1024
"""Bytes of white space after a boundary on its line."""

MAX_HEADER_BYTES = 8192
"""Bytes of the header fields of one part."""

MAX_HEADER_FIELDS = 16
"""Header fields of one part; clients send two to four."""

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")  # RFC 2046 5.1.1
_REST_OF_LINE = re.compile(rb"[ \t]{0,%d}\r\n" % MAX_PADDING)
_FOLD = re.compile(rb"\r\n[ \t]+")
_PLAIN = (b"binary", b"8bit", b"7bit")


class Part(NamedTuple):
    """One part: the name of its form field, whether it has a file name, and its bytes."""

    name: str
    is_file: bool
    content: bytes


def boundary_of(content_type: str) -> bytes:
    """Return the boundary in a Content-Type of multipart/form-data; raises `BadRequest` for a missing one."""
    boundary = parameters(content_type).get("boundary", "")
    if not boundary:
        raise _malformed(
            "its Content-Type has no boundary; leave the Content-Type to the client library, which knows it"
        )
    if not _BOUNDARY.fullmatch(boundary):
        raise _malformed(f"expected a boundary of 1 to 70 characters of RFC 2046, got {quoted(boundary)}")
    return boundary.encode()


def read_parts(body: bytes, boundary: bytes, max_parts: int) -> list[Part]:
    """Return the parts of a body in order. Text before the first and after the last delimiter is ignored.

    Raises `BadRequest` for a body that is not multipart, `ContentTooLarge` for more than `max_parts` parts and
    `UnsupportedMediaType` for a part with a transfer encoding.
    """
    delimiter = b"\r\n--" + boundary
    parts: list[Part] = []
    at = _after_first(body, delimiter)
    while not body.startswith(b"--", at):
        start = _next_line(body, at)
        if len(parts) == max_parts:
            raise ContentTooLarge(f"the body has more parts than the {max_parts} items allowed in one request")
        end = find(body, delimiter, start - 2)  # the line break before a delimiter belongs to it
        if end < 0:
            raise _malformed("its closing boundary is missing")
        parts.append(_part(body, start, end, len(parts) + 1))
        at = end + len(delimiter)
    return parts


def _after_first(body: bytes, delimiter: bytes) -> int:
    if body.startswith(delimiter[2:]):
        return len(delimiter) - 2
    first = find(body, delimiter, 0)
    if first < 0:
        raise _malformed("no line of it begins with the boundary of its Content-Type; the closing boundary is missing")
    return first + len(delimiter)


def _next_line(body: bytes, at: int) -> int:
    line = _REST_OF_LINE.match(body, at)
    if line is None:
        if len(body) - at < 2:
            raise _malformed("its closing boundary is missing")
        raise _malformed("expected a line break after a boundary, got something else")
    return line.end()


def _part(body: bytes, start: int, end: int, number: int) -> Part:
    blank = (
        start - 2
        if body.startswith(b"\r\n", start)
        else body.find(b"\r\n\r\n", start, min(end, start + MAX_HEADER_BYTES) + 2)
    )
    if blank < 0:
        most = f"at most {MAX_HEADER_BYTES} bytes of header fields and a blank line"
        raise _malformed(f"part {number}: expected {most} before its content")
    fields = _fields(body[start:blank], number)
    disposition = parameters(fields.get(b"content-disposition", b"").decode("utf-8", "replace"))
    if "name" not in disposition:
        raise _malformed(f"part {number}: expected a Content-Disposition with a name, got none")
    encoding = fields.get(b"content-transfer-encoding", b"binary").lower()
    if encoding not in _PLAIN:
        got = quoted(encoding.decode("latin-1"))
        raise UnsupportedMediaType(
            f"part {number}: expected its bytes as they are, got the Content-Transfer-Encoding {got}"
        )
    is_file = any(key.startswith("filename") for key in disposition)  # also filename* and filename*0* (RFC 2231)
    return Part(disposition["name"], is_file, body[blank + 4 : end])


def _fields(head: bytes, number: int) -> dict[bytes, bytes]:
    """Return the header fields of a part by their names in lower case, with folded lines joined (RFC 5322 2.2.3)."""
    lines = _FOLD.sub(b" ", head).split(b"\r\n", MAX_HEADER_FIELDS) if head else []
    if len(lines) > MAX_HEADER_FIELDS:
        raise _malformed(f"part {number}: expected at most {MAX_HEADER_FIELDS} header fields, got more")
    pairs = (line.partition(b":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _malformed(why: str) -> BadRequest:
    return BadRequest(f"the body is not {MULTIPART} that can be read: {why}")
