"""Retries: whether and when a request is sent again, within the time that its caller allows.

No call has side effects. A request is sent again after 429 and 503, not before its Retry-After and with jitter, so that
clients that were refused together do not return together; and after a connection that was lost before the response.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import random

import httpx

LOST = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
"""Errors of a connection that ended before the response, for example because it was idle for long."""

MAX_RETRY_AFTER = 60.0
"""Seconds of Retry-After above which a request is not sent again."""

MAX_TIMEOUT = 86_400.0
"""Seconds that the service takes in X-Request-Timeout."""

_RETRIED = (429, 503)
_FIRST_BACKOFF, _MAX_BACKOFF = 0.1, 5.0
_GRACE = 1.0
"""Seconds by which the client waits longer than the service works, so that its 504 arrives."""
_NEARLY = 0.01
"""Seconds before the deadline at which it counts as over: the service gets it rounded to milliseconds."""


class Tries:
    """The tries of one request: at most `retries` after the first, `timeout` seconds together."""

    def __init__(
        self,
        retries: int,
        timeout: float | None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random,
    ) -> None:
        self._left, self._done = retries, 0
        self._clock, self._jitter = clock, jitter
        self._timeout, self._deadline = timeout, None if timeout is None else clock() + timeout

    def arguments(self) -> dict[str, httpx.Timeout]:
        """Return the timeout of the next try for httpx."""
        left = self._seconds_left()
        return {"timeout": httpx.Timeout(None) if left is None else httpx.Timeout(left, read=left + _GRACE)}

    def headers(self) -> dict[str, str]:
        """Return the deadline of the next try for the service."""
        left = self._seconds_left()
        return {} if left is None or left > MAX_TIMEOUT else {"X-Request-Timeout": f"{left:.3f}"}

    def is_over(self) -> bool:
        """Return whether the time of all tries is over, or nearly so."""
        left = self._seconds_left()
        return left is not None and left <= _NEARLY

    def require_time(self) -> None:
        """Raise `httpx.ReadTimeout` after the time of all tries, while a response arrives."""
        if self._deadline is not None and self._clock() > self._deadline + _GRACE:
            raise httpx.ReadTimeout(f"the response was not complete within the timeout of {self._timeout:g} s")

    def pause(self, response: httpx.Response | None) -> float | None:
        """Return the seconds until the request is sent again after a response, or after none; None if it is not."""
        wanted = 0.0 if response is None else _retry_after(response)
        if wanted is None or wanted > MAX_RETRY_AFTER or not self._left:
            return None
        backoff = min(_MAX_BACKOFF, _FIRST_BACKOFF * 2**self._done)
        pause = wanted + self._jitter() * max(backoff, wanted / 4)
        left = self._seconds_left()
        if left is not None and pause >= left:
            return None
        self._left, self._done = self._left - 1, self._done + 1
        return pause

    def _seconds_left(self) -> float | None:
        return None if self._deadline is None else max(0.001, self._deadline - self._clock())


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds of Retry-After, a number or a date; None for a response that is no refusal."""
    if response.status_code not in _RETRIED:
        return None
    value = response.headers.get("retry-after", "")
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return 1.0
