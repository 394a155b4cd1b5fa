"""Rules of RFC 9110 and RFC 9112 for the head of a request beyond its grammar, which the HTTP parser checks."""

import re
from collections.abc import Mapping

from app.errors import (
    BadRequest,
    MethodNotAllowed,
    NotImplementedByServer,
    ServiceError,
    UnprocessableContent,
    VersionNotSupported,
)
from app.validation import MAX_QUOTED_LENGTH, quoted

MAX_LENGTH_DIGITS = 20
"""Digits of a Content-Length: those of 2**64."""

MAX_PARAMETERS = 100
"""Query parameters of a request, many more than any endpoint has."""

SINGLE_FIELDS = {b"host": "Host", b"authorization": "Authorization"}
"""Header fields that may occur once; with two of them a proxy and this service might read different ones."""

_METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH")
_UPGRADE_FIELDS = (b"upgrade", b"http2-settings", b"connection")
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) +[!-~]+ HTTP/(\d\.\d)")
_AUTHORITY = rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]{0,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{0,5})?"
_HOST = re.compile(_AUTHORITY)
_ABSOLUTE = re.compile(rb"(?i:https?)://(?=[^/?#:])" + _AUTHORITY + rb"([/?#].*)?")

Fields = Mapping[bytes, bytes]
Headers = list[tuple[bytes, bytes]]


def refusal(line: bytes, reason: str) -> ServiceError:
    """Return the error for a head that the parser rejects for `reason`, by its request line.

    An unknown method is 501 (RFC 9110, 9.1), an unknown version 505 (15.6.6), everything else 400.
    """
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        return BadRequest(f"expected a request line 'METHOD TARGET HTTP/1.1' (RFC 9112, 3), got {_quoted(line)}")
    method, version = match.groups()
    if version not in (b"1.0", b"1.1"):
        return VersionNotSupported(f"expected HTTP/1.1 or HTTP/1.0, got HTTP/{version.decode()}")
    if method not in _METHODS:
        return NotImplementedByServer(f"expected a method such as GET or POST, got {_quoted(method)}")
    return BadRequest(f"expected a request of HTTP/1.1 (RFC 9112): {reason}")


def origin_form(method: bytes, target: bytes) -> bytes:
    """Return path and query of a request target in any of its forms (RFC 9112, 3.2)."""
    if method == b"CONNECT":
        raise MethodNotAllowed(
            "CONNECT is not supported: this service is not a proxy", headers={"Allow": "GET, HEAD, POST"}
        )
    target = target.partition(b"#")[0]  # clients must not send a fragment; some do
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target
    if match := _ABSOLUTE.fullmatch(target):
        rest = match[1] or b""
        return rest if rest.startswith(b"/") else b"/" + rest
    raise BadRequest(f"request target: expected a path or an http URL (RFC 9112, 3.2), got {_quoted(target)}")


def combined(headers: Headers) -> dict[bytes, bytes]:
    """Return each field once (RFC 9110, 5.2); rejects a repeated field of `SINGLE_FIELDS`."""
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in fields and name in SINGLE_FIELDS:
            raise BadRequest(f"{SINGLE_FIELDS[name]}: expected one such field, got more")
        fields[name] = fields[name] + b"," + value if name == b"transfer-encoding" and name in fields else value
    return fields


def require_host(fields: Fields, *, old: bool) -> bytes:
    """Return the Host field; rejects an invalid one, and an HTTP/1.1 request without one (RFC 9112, 3.2)."""
    host = fields.get(b"host")
    if host is None:
        if not old:
            raise BadRequest("Host: HTTP/1.1 expects one (RFC 9112, 3.2), got none")
    elif not _HOST.fullmatch(host):
        raise BadRequest(f"Host: expected a host and perhaps a port, got {_quoted(host)}")
    return host or b""


def require_one_key(headers: Headers) -> None:
    """Reject a request with several API keys: a proxy may have checked another one than this service would."""
    if (count := sum(name == b"authorization" for name, _ in headers)) > 1:
        raise BadRequest(f"Authorization: expected one such header, got {count}")


def require_few_parameters(query: bytes) -> None:
    """Reject a query of many parameters before it is parsed."""
    if (count := query.count(b"&") + 1) > MAX_PARAMETERS:
        raise UnprocessableContent(f"query: expected at most {MAX_PARAMETERS} parameters, got {count}")


def body_length(fields: Fields, *, old: bool) -> int | None:
    """Return the length of the body in bytes; None for a chunked body (RFC 9112, 6.3)."""
    coding = fields.get(b"transfer-encoding")
    if coding is None:
        digits = fields.get(b"content-length", b"0")
        if len(digits) > MAX_LENGTH_DIGITS:
            raise BadRequest(f"Content-Length: expected at most {MAX_LENGTH_DIGITS} digits, got {len(digits)}")
        return int(digits)
    if old:
        raise BadRequest("Transfer-Encoding: HTTP/1.0 has none (RFC 9112, 6.1)")
    if coding.lower() != b"chunked":
        _require_chunked(coding)
    return None


def _require_chunked(coding: bytes) -> None:
    codings = [name.strip(b" \t") for name in coding.lower().split(b",")]
    codings = [name for name in codings if name]  # RFC 9110, 5.6.1: empty elements are ignored
    if not codings or codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
        raise BadRequest(f"Transfer-Encoding: expected chunked (RFC 9112, 6.3), got {_quoted(coding)}")
    if len(codings) > 1:
        raise NotImplementedByServer(f"Transfer-Encoding: expected chunked alone, got {_quoted(coding)}")


def without_trailing_space(head: bytes) -> bytes:
    """Return a head without white space at the ends of its lines, where the parser does not expect tabs.

    A line of white space alone is left as it is: an empty one would end the head.
    """
    return b"\r\n".join([line.rstrip(b" \t") or line for line in head.split(b"\r\n")])


def without_upgrade(headers: Headers) -> Headers:
    """Return the fields of a head without those of an upgrade to another protocol (RFC 9110, 7.8)."""
    options = b",".join(value for name, value in headers if name == b"connection").lower().split(b",")
    others = [option for option in map(bytes.strip, options) if option and option not in _UPGRADE_FIELDS]
    kept = [field for field in headers if field[0] not in _UPGRADE_FIELDS]
    return [*kept, (b"connection", b", ".join(others))] if others else kept


def _quoted(text: bytes) -> str:
    return quoted(text[: MAX_QUOTED_LENGTH + 1].decode("latin-1"))
