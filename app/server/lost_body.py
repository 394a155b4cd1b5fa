"""Answers 503 early to a request that arrives without its body, so that the proxy in front sends it again.

Ray Serve's proxy keeps the messages of a body in a queue, out of which a replica fetches each message once. If the
replica dies just then, and the proxy learns of the death before it has read that the replica accepted the request, it
hands the request over to another replica; what the first one has fetched is gone. The second one would wait for it
until the request's deadline, and 504 is no status that a proxy retries.
"""

import asyncio
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Unavailable

LENGTH_DIGITS = 20
"""Digits of a Content-Length that is one, as 2**64 has them; Python refuses to convert thousands."""


class LostBodyMiddleware:
    """ASGI middleware for a replica behind proxies that buffer requests, as HAProxy's `http-buffer-request` does.

    Bodies arrive in the order of their requests. So one is lost if it has not begun to arrive when that of a request
    has which came `margin_s` seconds later, or if none at all has for `silence_s` seconds, as when every request that
    the replica may have at once has lost its body. The time that a body takes does not tell: without a free core that
    may be seconds. A body is also lost where it ends before the announced length. `receive` then raises `Unavailable`,
    which becomes a 503 with `Retry-After`.
    """

    def __init__(self, app: ASGIApp, margin_s: float, silence_s: float) -> None:
        self.app = app
        self.margin_s, self.silence_s = margin_s, silence_s
        self._latest = 0.0  # when the latest request came whose body has begun to arrive
        self._begun = 0.0  # when a body last began to arrive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            digits = headers.get("content-length", "")
            length = int(digits) if digits.isdecimal() and len(digits) <= LENGTH_DIGITS else 0
            if length or "transfer-encoding" in headers:
                receive = self._checked(receive, length)
        await self.app(scope, receive, send)

    def _checked(self, receive: Receive, length: int) -> Receive:
        """The messages of `receive`; `length` is the announced length in bytes, or 0."""
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
        """The first message of a request that came at the time `started`."""
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
