"""What `Client` and `AsyncClient` have in common: their arguments and what follows from them."""

from typing import Any, Generic, TypeVar

import httpx

from .arguments import base_url, integer, seconds
from .calls import Limits, with_headers

Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)


class BaseClient(Generic[Http]):
    """The connections to one service, and how calls are sent to it; `Client` explains the arguments."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        retries: int = 3,
        timeout: float | None = 60.0,
        max_items: int = 256,
        max_bytes: int = 2**24,
        concurrency: int = 4,
        max_response_bytes: int = 2**30,
        **options: Any,
    ) -> None:
        self._retries, self._timeout = integer("retries", retries, 0), seconds("timeout", timeout)
        self._limits = Limits(integer("max_items", max_items, 1), integer("max_bytes", max_bytes, 1))
        self._concurrency = integer("concurrency", concurrency, 1)
        self._max_response_bytes = integer("max_response_bytes", max_response_bytes, 1)
        self._http = self._connect(base_url=base_url(url), **with_headers(api_key, **options))

    def _seconds(self, timeout: float | None) -> float | None:
        """Return the timeout of a call, by default that of the client."""
        return self._timeout if timeout is None else seconds("timeout", timeout)

    def _connect(self, **options: Any) -> Http:
        raise NotImplementedError
