"""What `Client` and `AsyncClient` have in common: their arguments and what follows from them."""

from typing import Any, Generic, TypeVar

import httpx

from .calls import Limits, base_url, with_headers

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
        self._http = self._connect(base_url=base_url(url), **with_headers(api_key, **options))
        self._retries, self._timeout, self._limits = retries, timeout, Limits(max_items, max_bytes)
        self._concurrency, self._max_response_bytes = max(1, concurrency), max_response_bytes

    def _connect(self, **options: Any) -> Http:
        raise NotImplementedError
