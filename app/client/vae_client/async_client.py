"""The client for asyncio."""

import asyncio
from contextlib import aclosing
from typing import Any, Self, TypeVar

import httpx
import numpy as np

from . import calls
from .arguments import Size
from .base import BaseClient
from .calls import Call, Counter, Progress, Span
from .items import Images, Tensor
from .responses import naming_url, receiving
from .results import Encoded, Problem, Sampled, Scored
from .retries import LOST, Tries

T = TypeVar("T")


class AsyncClient(BaseClient[httpx.AsyncClient]):
    """`Client` for asyncio, call for call; `concurrency` requests of a call that is divided are sent at once."""

    def _connect(self, **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(**options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def encode(
        self,
        images: Images,
        *,
        samples: int | None = None,
        seed: int | None = None,
        fit: str | None = None,
        size: Size | None = None,
        scaled: bool = False,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> Encoded:
        """As `Client.encode`."""
        return await self._call(calls.encode(images, samples, seed, fit, size, scaled), timeout, progress)

    async def decode(
        self,
        latents: np.ndarray | Tensor | Encoded,
        *,
        scaled: bool = False,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """As `Client.decode`."""
        return await self._call(calls.decode(latents, scaled), timeout, progress)

    async def reconstruct(
        self,
        images: Images,
        *,
        seed: int | None = None,
        fit: str | None = None,
        size: Size | None = None,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """As `Client.reconstruct`."""
        return await self._call(calls.reconstruct(images, seed, fit, size), timeout, progress)

    async def deviations(
        self,
        images: Images,
        *,
        seed: int | None = None,
        fit: str | None = None,
        size: Size | None = None,
        timeout: float | None = None,
    ) -> np.ndarray:
        """As `Client.deviations`."""
        return await self._call(calls.reconstruct(images, seed, fit, size, output="error"), timeout)

    async def sample(
        self,
        n: int,
        *,
        seed: int | None = None,
        temperature: float | None = None,
        size: Size | None = None,
        force: bool = False,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> Sampled:
        """As `Client.sample`."""
        return await self._call(calls.sample(n, seed, temperature, size, force), timeout, progress)

    async def interpolate(
        self,
        ends: Images | Encoded,
        *,
        steps: int = 9,
        mode: str = "linear",
        fit: str | None = None,
        size: Size | None = None,
        scaled: bool = False,
        timeout: float | None = None,
    ) -> np.ndarray:
        """As `Client.interpolate`."""
        return await self._call(calls.interpolate(ends, steps, mode, fit, size, scaled), timeout)

    async def score(
        self,
        images: Images,
        *,
        samples: int | None = None,
        alpha: float | None = None,
        seed: int | None = None,
        fit: str | None = None,
        size: Size | None = None,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> Scored:
        """As `Client.score`."""
        return await self._call(calls.score(images, samples, alpha, seed, fit, size), timeout, progress)

    async def model(self, *, timeout: float | None = None) -> dict[str, Any]:
        """As `Client.model`."""
        return await self._call(calls.model(), timeout)

    async def history(self, *, timeout: float | None = None) -> dict[str, Any]:
        """As `Client.history`."""
        return await self._call(calls.history(), timeout)

    async def _call(self, call: Call[T], timeout: float | None, progress: Progress | None = None) -> T:
        seconds = self._seconds(timeout)
        turn, counter = asyncio.Semaphore(self._concurrency), Counter(call.count, progress)
        spans = call.spans(self._limits)
        parts = [asyncio.create_task(self._send_part(call, span, seconds, turn, counter)) for span in spans]
        try:
            return call.join([result for part in await asyncio.gather(*parts) for result in part])
        finally:
            for part in parts:  # after an error the others are of no use
                part.cancel()

    async def _send_part(
        self, call: Call[T], span: Span, timeout: float | None, turn: asyncio.Semaphore, counter: Counter
    ) -> list[T]:
        try:
            async with turn:
                tries = Tries(self._retries, timeout)
                result = call.result(await self._send(call, span, tries), span)
        except Problem as error:
            halves = call.halves(span, error, tries)
        else:
            counter.add(span.stop - span.start)
            return [result]
        return [result for half in halves for result in await self._send_part(call, half, timeout, turn, counter)]

    async def _send(self, call: Call[Any], span: Span, tries: Tries) -> httpx.Response:
        while True:
            request = call.request(self._http, span, tries)
            try:
                with naming_url(request):
                    response = await self._receive(request, tries)
            except LOST:
                if (pause := tries.pause(None)) is None:
                    raise
            else:
                if (pause := tries.pause(response)) is None:
                    return response
            await asyncio.sleep(pause)

    async def _receive(self, request: httpx.Request, tries: Tries) -> httpx.Response:
        response = await self._http.send(request, stream=True)
        async with aclosing(response):
            with receiving(response, self._max_response_bytes, tries) as body:
                async for chunk in response.aiter_bytes():
                    body.add(chunk)
        return body.response()
