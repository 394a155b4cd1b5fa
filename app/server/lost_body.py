"""Middleware that answers 503 to a request without its body, so that the proxy sends it again.

Ray Serve's proxy keeps the messages of a body in a queue, from which a replica fetches each message once. If the
replica dies then, and the proxy learns of the death before it has read that the replica accepted the request, it passes
the request to another replica, without the messages that the first one has fetched. The second replica would wait for
them until the deadline of the request, and proxies do not retry a 504.
"""

import asyncio
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Unavailable

LENGTH_DIGITS = 20
"""Digits of a valid Content-Length at most, as of 2**64. Python refuses to convert thousands of digits."""


class LostBodyMiddleware:
    """ASGI middleware for a replica behind proxies that buffer requests, as HAProxy's `http-buffer-request` does.

    Bodies arrive in the order of their requests. So a body is lost if it has not begun to arrive when the body of a
    request has that came `margin_s` seconds later, or if no body has begun to arrive for `silence_s` seconds, as when
    all requests of the replica have lost their bodies. The duration of a body is no criterion: without a free core it
    may be seconds. A body is also lost if it ends before the announced length. `receive` then raises `Unavailable`,
    which becomes a 503 with `Retry-After`.
    """

    def __init__(self, app: ASGIApp, margin_s: float, silence_s: float) -> None:
        self.app = app
        self.margin_s, self.silence_s = margin_s, silence_s
        self._latest = 0.0  # arrival of the latest request with a body that has begun to arrive
        self._begun = 0.0  # when the latest body began to arrive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            digits = headers.get("content-length", "")
            length = int(digits) if digits.isdecimal() and len(digits) <= LENGTH_DIGITS else 0
            if length or "transfer-encoding" in headers:
                receive = self._checked(receive, length)
        await self.app(scope, receive, send)

    def _checked(self, receive: Receive, length: int) -> Receive:
        """Check the messages of `receive` against the announced length in bytes, 0 if unknown."""
        started, begun, received = time.monotonic(), False, 0

        async def checked() -> Message:
            nonlocal begun, received
            message = await (receive() if begun else self._first(receive, started))
            begun = True
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received < length and not message.get("more_body", False):
                    raise Unavailable(f"{received} of {length} bytes of the body arrived; send the request again")
            return message

        return checked

    async def _first(self, receive: Receive, started: float) -> Message:
        """The first message of a request that arrived at the time `started`."""
        while True:
            try:
                async with asyncio.timeout(self.margin_s):
                    message = await receive()
            except TimeoutError:
                now = time.monotonic()
                if self._latest < started + self.margin_s and now < max(started, self._begun) + self.silence_s:
                    continue
                detail = f"the body did not begin to arrive within {now - started:.1f} s; send the request again"
                raise Unavailable(detail) from None
            self._latest, self._begun = max(self._latest, started), time.monotonic()
            return message
