"""The Python client, sync and async: arrays in, arrays out; needs numpy and httpx, and neither torch nor fastapi.

    with Client("http://localhost:8000") as vae:
        encoded = vae.encode(images)            # uint8 [N, H, W] or [N, H, W, C], or a list of such without N
        encoded = vae.encode("three.png")       # or the paths or bytes of pictures, one or a list
        pictures = vae.decode(encoded.mean)     # uint8 [N, H, W, C]

All calls are free of side effects, so a full queue or a draining replica is tried again after the time it asks for.
"""

import asyncio
import time
from typing import Any, Self, TypeVar

import httpx
import numpy as np

from app.client import requests as questions
from app.client.requests import Encoded, Images, Problem, Question, Sampled, Scored

__all__ = ["AsyncClient", "Client", "Encoded", "Images", "Problem", "Sampled", "Scored"]

T = TypeVar("T")

_AGAIN = (429, 503)
_LONGEST = 60.0


class Client:
    """Calls one service. `retries` counts how often a 429 or 503 is tried again, after its Retry-After.

    One that asks for more than 60 seconds is raised as a `Problem` at once. `options` are those of `httpx.Client`;
    among its headers the key takes the place of another Authorization.
    """

    def __init__(self, url: str, *, api_key: str | None = None, retries: int = 3, **options: Any) -> None:
        self._http = httpx.Client(base_url=url, **_options(api_key, **options))
        self._retries = retries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def encode(
        self, images: Images, *, samples: int | None = None, seed: int | None = None, fit: str | None = None
    ) -> Encoded:
        """The posterior of each image, and `samples` draws from it."""
        return self._send(questions.encode(images, samples=samples, seed=seed, fit=fit))

    def decode(self, latents: np.ndarray | Encoded) -> np.ndarray:
        """The mean image for each latent [N, *latent] or draw [L, N, *latent]: uint8 [N, H, W, C] or [L, N, H, W, C].

        Of what was encoded the means are decoded. Raises `ValueError` for arrays of other dimensions.
        """
        return self._send(questions.decode(latents))

    def reconstruct(self, images: Images, *, seed: int | None = None, fit: str | None = None) -> np.ndarray:
        """Each image encoded and decoded, uint8 [N, H, W, C]; at the posterior mean, or with `seed` at a draw."""
        return self._send(questions.reconstruct(images, seed=seed, fit=fit))

    def sample(self, n: int, *, seed: int | None = None, temperature: float | None = None) -> Sampled:
        """New images from the prior."""
        return self._send(questions.sample(n, seed=seed, temperature=temperature))

    def score(
        self, images: Images, *, samples: int | None = None, seed: int | None = None, fit: str | None = None
    ) -> Scored:
        """How well the model explains each image; with `samples` also by the importance-weighted bound.

        One `seed` for images that are sent one by one gives all of them the same draw.
        """
        return self._send(questions.score(images, samples=samples, seed=seed, fit=fit))

    def model(self) -> dict[str, Any]:
        """What is served: name, digest, shapes, likelihood, architecture, runtime."""
        return self._send(questions.model())

    def history(self) -> dict[str, Any]:
        """How the served model was trained and evaluated: `model` names it, `metrics` is its metrics.json."""
        return self._send(questions.history())

    def _send(self, question: Question[T]) -> T:
        request = question.request(self._http)
        for _ in range(self._retries):
            response = self._http.send(request)
            if (pause := _pause(response)) is None:
                return question.result(response)
            time.sleep(pause)
        return question.result(self._http.send(request))


class AsyncClient:
    """`Client` for asyncio, call for call."""

    def __init__(self, url: str, *, api_key: str | None = None, retries: int = 3, **options: Any) -> None:
        self._http = httpx.AsyncClient(base_url=url, **_options(api_key, **options))
        self._retries = retries

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def encode(
        self, images: Images, *, samples: int | None = None, seed: int | None = None, fit: str | None = None
    ) -> Encoded:
        """As `Client.encode`."""
        return await self._send(questions.encode(images, samples=samples, seed=seed, fit=fit))

    async def decode(self, latents: np.ndarray | Encoded) -> np.ndarray:
        """As `Client.decode`."""
        return await self._send(questions.decode(latents))

    async def reconstruct(self, images: Images, *, seed: int | None = None, fit: str | None = None) -> np.ndarray:
        """As `Client.reconstruct`."""
        return await self._send(questions.reconstruct(images, seed=seed, fit=fit))

    async def sample(self, n: int, *, seed: int | None = None, temperature: float | None = None) -> Sampled:
        """As `Client.sample`."""
        return await self._send(questions.sample(n, seed=seed, temperature=temperature))

    async def score(
        self, images: Images, *, samples: int | None = None, seed: int | None = None, fit: str | None = None
    ) -> Scored:
        """As `Client.score`."""
        return await self._send(questions.score(images, samples=samples, seed=seed, fit=fit))

    async def model(self) -> dict[str, Any]:
        """As `Client.model`."""
        return await self._send(questions.model())

    async def history(self) -> dict[str, Any]:
        """As `Client.history`."""
        return await self._send(questions.history())

    async def _send(self, question: Question[T]) -> T:
        request = question.request(self._http)
        for _ in range(self._retries):
            response = await self._http.send(request)
            if (pause := _pause(response)) is None:
                return question.result(response)
            await asyncio.sleep(pause)
        return question.result(await self._http.send(request))


def _options(api_key: str | None, **options: Any) -> dict[str, Any]:
    headers = httpx.Headers(options.get("headers"))
    if api_key:
        headers.update([(b"Authorization", f"Bearer {api_key}".encode())])  # as bytes: a str has to be ASCII
    return {"timeout": 60.0, **options, "headers": headers}


def _pause(response: httpx.Response) -> float | None:
    """Seconds after which to ask again; None where the answer stands."""
    if response.status_code not in _AGAIN:
        return None
    asked = response.headers.get("retry-after", "")
    seconds = float(asked) if asked.isdecimal() else 1.0  # it may be a date
    return seconds if seconds <= _LONGEST else None
