"""What RFC 9110 and RFC 9112 ask of the head of a request beyond its grammar, which the parser checks."""

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
from app.validation import LONGEST, quoted

MAX_LENGTH_DIGITS = 20
"""Digits of a Content-Length: those of 2**64."""

MAX_PARAMETERS = 100
"""Query parameters of a request, many times as many as any endpoint has."""

ONCE = {b"host": "Host", b"authorization": "Authorization"}
"""Fields that a request may have once; two of them would let a proxy and this service read different ones."""

_METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH")
_OF_UPGRADES = (b"upgrade", b"http2-settings", b"connection")
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) +[!-~]+ HTTP/(\d\.\d)")
_AUTHORITY = rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]{0,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{0,5})?"
_HOST = re.compile(_AUTHORITY)
_ABSOLUTE = re.compile(rb"(?i:https?)://(?=[^/?#:])" + _AUTHORITY + rb"([/?#].*)?")

Fields = Mapping[bytes, bytes]
Headers = list[tuple[bytes, bytes]]


def refusal(line: bytes, reason: str) -> ServiceError:
    """The error for a head that the parser refuses for `reason`, by its request line.

    A method that is not known is 501 (RFC 9110, 9.1), a version 505 (15.6.6), all else 400.
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
    """Path and query of a request target in any of its forms (RFC 9112, 3.2)."""
    if method == b"CONNECT":
        raise MethodNotAllowed("this service is no proxy: it takes no CONNECT", headers={"Allow": "GET, HEAD, POST"})
    target = target.partition(b"#")[0]  # a fragment is not sent; some clients do
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target
    if match := _ABSOLUTE.fullmatch(target):
        rest = match[1] or b""
        return rest if rest.startswith(b"/") else b"/" + rest
    raise BadRequest(f"request target: expected a path or an http URL (RFC 9112, 3.2), got {_quoted(target)}")


def normalized(fields: Headers) -> Headers:
    """Fields with their names in lower case, and without the white space behind their values, as ASGI has them."""
    return [(name.lower(), value.rstrip(b" \t")) for name, value in fields]


def combined(headers: Headers) -> dict[bytes, bytes]:
    """Each field once (RFC 9110, 5.2); refuses two of those that may come once."""
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in fields and name in ONCE:
            raise BadRequest(f"{ONCE[name]}: expected one such field, got more")
        fields[name] = fields[name] + b"," + value if name == b"transfer-encoding" and name in fields else value
    return fields


def require_host(fields: Fields, *, old: bool) -> bytes:
    """The Host field; refuses a request of HTTP/1.1 without one, and any request with a bad one (RFC 9112, 3.2)."""
    host = fields.get(b"host")
    if host is None:
        if not old:
            raise BadRequest("Host: HTTP/1.1 expects one (RFC 9112, 3.2), got none")
    elif not _HOST.fullmatch(host):
        raise BadRequest(f"Host: expected a host and perhaps a port, got {_quoted(host)}")
    return host or b""


def require_one_key(headers: Headers) -> None:
    """Refuse a request with several keys: a proxy may have checked another one than would be used here."""
    if (count := sum(name == b"authorization" for name, _ in headers)) > 1:
        raise BadRequest(f"Authorization: expected one such header, got {count}")


def require_few_parameters(query: bytes) -> None:
    """Refuse a query of many parameters before they are parsed."""
    if (count := query.count(b"&") + 1) > MAX_PARAMETERS:
        raise UnprocessableContent(f"query: expected at most {MAX_PARAMETERS} parameters, got {count}")


def body_length(fields: Fields, *, old: bool) -> int | None:
    """Bytes of the body that follows; None where it comes in chunks (RFC 9112, 6.3)."""
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


def without_upgrade(headers: Headers) -> Headers:
    """The fields of a head without those that ask for another protocol (RFC 9110, 7.8)."""
    options = b",".join(value for name, value in headers if name == b"connection").lower().split(b",")
    others = [option for option in map(bytes.strip, options) if option and option not in _OF_UPGRADES]
    kept = [field for field in headers if field[0] not in _OF_UPGRADES]
    return [*kept, (b"connection", b", ".join(others))] if others else kept


def _quoted(text: bytes) -> str:
    return quoted(text[: LONGEST + 1].decode("latin-1"))
