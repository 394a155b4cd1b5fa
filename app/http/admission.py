"""Admission control: which requests are refused before their bodies are read."""

import re
from collections.abc import Callable

from starlette.types import Scope

from app.context import RequestContext
from app.errors import Unavailable, UnprocessableContent
from app.http.auth import ApiKeys
from app.http.budget import body_too_large
from app.http.protocol.head_rules import require_few_parameters, require_one_key
from app.http.state import ServiceState
from app.http.targets import Target
from app.settings import Limits
from app.validation import quoted

MAX_TIMEOUT = 86_400.0
"""Largest number of seconds in X-Request-Timeout; the OpenAPI document has it too."""

MAX_NUMBER_LENGTH = 40
"""Characters of a number in a header."""

_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_LENGTH = re.compile(rb"[0-9]{1,20}")


class AdmissionController:
    """Admits or refuses a request by its head, and sets its deadline.

    `check_capacity` raises `QueueFull` while the queue of the model has no room for a single item.
    """

    def __init__(
        self,
        limits: Limits,
        state: ServiceState,
        api_keys: ApiKeys,
        check_capacity: Callable[[], None],
    ) -> None:
        self._limits = limits
        self._state = state
        self._api_keys = api_keys
        self._requires_key = bool(api_keys)
        self._check_capacity = check_capacity

    def is_full(self) -> bool:
        """Whether no more connections may be opened."""
        return len(self._state.connections) >= self._limits.max_connections

    def admit(self, scope: Scope, context: RequestContext, target: Target) -> None:
        """Raise the `ServiceError` of a request that is refused; shorten the deadline of one that asks for that."""
        headers = context.headers
        if len(headers) < len(scope["headers"]):
            require_one_key(scope["headers"])
        if len(self._state.connections) > (limit := self._limits.max_connections):
            raise Unavailable(f"more than the {limit} connections allowed are open", headers={"Connection": "close"})
        if self._requires_key:
            self._api_keys.require(headers.get(b"authorization"))
        if self._state.draining:
            raise Unavailable("the service is draining")
        if b"x-request-timeout" in headers:
            seconds = _seconds(headers[b"x-request-timeout"].decode("latin-1"))
            context.deadline += min(0.0, seconds - self._limits.request_timeout_s)
        if target.uses_queue:
            self._check_capacity()
        length = headers.get(b"content-length", b"")
        if _LENGTH.fullmatch(length) and int(length) > self._limits.max_body_bytes:
            raise body_too_large(self._limits.max_body_bytes)
        if scope["query_string"]:
            require_few_parameters(scope["query_string"])


def _seconds(text: str) -> float:
    value = float(text) if len(text) <= MAX_NUMBER_LENGTH and _SECONDS.fullmatch(text) else 0.0
    if not 0 < value <= MAX_TIMEOUT:
        expected = f"expected seconds, a number above 0 and up to {MAX_TIMEOUT:g} such as 2.5"
        raise UnprocessableContent(f"X-Request-Timeout: {expected}, got {quoted(text)}")
    return value
