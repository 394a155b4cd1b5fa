"""Who may come in: keys, limits, and whether anybody may at all; what edge, probes and server agree on."""

import hmac
import re
from collections.abc import Callable, Mapping
from typing import Protocol

from app.context import RequestContext
from app.errors import ContentTooLarge, Unauthorized, Unavailable, UnprocessableContent
from app.settings import Settings
from app.validation import quoted

WORK = ("/encode", "/decode", "/reconstruct", "/sample", "/score")
OPEN = ("/", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json")

BODIES = 16
"""Bodies of the largest size that may be under way at once; else each connection could hold one in memory."""

AT_ONCE = 2
"""Requests of the most memory allowed to one whose memory may be taken at once; else they could take all there is."""

SMALL = 1 / 64
"""Part of the memory allowed to one request up to which a request finds room where larger ones find none."""

MAX_TIMEOUT = 86_400.0
"""Seconds that X-Request-Timeout may ask for, as the OpenAPI document says."""

MAX_NUMBER = 40
"""Characters of a number in a header."""

_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_LENGTH = re.compile(rb"[0-9]{1,20}")


def is_open(path: str) -> bool:
    """Whether a path is for those who run the service: never behind the key, the limits, the log or the traces."""
    return path in OPEN or path.startswith("/docs/")


class InFlightRequest(Protocol):
    """A request that is inside."""

    def cut(self) -> None:
        """Answer it at once: there is no more time for it."""


class AdmissionController:
    """Knows who is inside and the bytes `held` for them, and lets nobody in while `draining`.

    `reserved` are the bytes of memory that requests take besides their bodies.
    `patience` is the seconds a request may take.

    `connections` tells how many are open, `require_room` raises `QueueFull` where the queue is full; both are set by
    whoever knows. `spare` callers are asked to come again on another line, so that another worker is given it.
    """

    def __init__(self, settings: Settings) -> None:
        self.guests: set[InFlightRequest] = set()
        self.held = self.reserved = 0
        self.draining = False
        self.spare = 0
        self.connections: Callable[[], int] = lambda: 0
        self.require_room: Callable[[], None] = lambda: None
        self.patience = settings.request_timeout_s
        self._keys = settings.keys()
        self._max_connections = settings.max_connections
        self._max_body_bytes = settings.max_body_bytes
        self._max_memory_bytes = settings.max_memory_bytes

    @property
    def locked(self) -> bool:
        """Whether nobody comes in without a key."""
        return bool(self._keys)

    @property
    def inside(self) -> int:
        """How many requests are."""
        return len(self.guests)

    def cut(self) -> int:
        """Cut all who are inside; how many they were."""
        guests = [*self.guests]
        for guest in guests:
            guest.cut()
        return len(guests)

    def admit(self, path: str, headers: Mapping[bytes, bytes], context: RequestContext) -> None:
        """Refuse what should not come in, by the `ServiceError` that says why; a shorter deadline is taken over.

        `headers` are those of ASGI by their names.
        """
        if self.connections() > (most := self._max_connections):
            raise Unavailable(f"more than the {most} connections allowed are open", headers={"Connection": "close"})
        if self.locked:
            self._require_key(headers.get(b"authorization"))
        if self.draining:
            raise Unavailable("the service is draining")
        if (asked := headers.get(b"x-request-timeout")) is not None:
            context.deadline += min(0.0, _seconds(asked.decode("latin-1")) - self.patience)
        if path in WORK:
            self.require_room()
        if length := headers.get(b"content-length"):
            self.require_size(int(length) if _LENGTH.fullmatch(length) else 0)

    def parts(self) -> bool:
        """Whether the one who is answered should not ask again on his line."""
        if self.draining:
            return True  # it is about to be cut
        self.spare, spared = max(0, self.spare - 1), self.spare > 0
        return spared

    def hold(self, size: int, received: int) -> None:
        """Count so many bytes more of a body of `received`; refuse what is too large, by itself or with the others."""
        self.held += size
        self.require_size(received)
        if self.held > (most := BODIES * self._max_body_bytes):
            raise Unavailable(f"the bodies under way are more than {most} bytes together")

    def reserve(self, context: RequestContext, size: int) -> None:
        """Count so many bytes of memory for a request, in place of those before; refuse them where all take too much.

        What is refused stays counted until the request has ended.
        """
        more, context.memory = size - context.memory, size
        self.reserved += more
        if more > 0:
            one = self._max_memory_bytes
            room = AT_ONCE * one + (one // 4 if size <= one * SMALL else 0)
            if self.reserved > room:
                raise Unavailable(f"the requests under way take more than {room} bytes of memory together")

    def require_size(self, size: int) -> None:
        """Refuse a body of more bytes than the limit."""
        if size > (limit := self._max_body_bytes):
            raise ContentTooLarge(f"the body is larger than the {limit} bytes allowed")

    def without_keys(self, text: str) -> str:
        """What a caller wrote, as it may be logged."""
        for key in sorted(self._keys, key=len, reverse=True):  # one may begin another
            text = text.replace(key.decode(), "KEY")
        return text

    def _require_key(self, sent: bytes | None) -> None:
        if sent is None or not self._knows(sent.decode("latin-1")):
            came = "none" if sent is None else "another"
            raise Unauthorized(f"expected a key known here as 'Authorization: Bearer KEY', got {came}")

    def _knows(self, authorization: str) -> bool:
        """Whether the bearer is one of the keys; each is compared, in constant time."""
        scheme, _, key = authorization.partition(" ")
        matches = [hmac.compare_digest(key.strip(" \t").encode("latin-1"), known) for known in self._keys]
        return scheme.lower() == "bearer" and any(matches)


def _seconds(text: str) -> float:
    value = float(text) if len(text) <= MAX_NUMBER and _SECONDS.fullmatch(text) else 0.0
    if not 0 < value <= MAX_TIMEOUT:
        expected = f"expected seconds, a number above 0 and up to {MAX_TIMEOUT:g} such as 2.5"
        raise UnprocessableContent(f"X-Request-Timeout: {expected}, got {quoted(text)}")
    return value
