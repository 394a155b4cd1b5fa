"""Python client of the service, synchronous and asynchronous. Needs only numpy and httpx.

    with Client("http://localhost:8000") as vae:
        encoded = vae.encode(images)            # uint8 [N, H, W] or [N, H, W, C], or a list of such arrays without N
        encoded = vae.encode("three.png")       # or paths or bytes of image files, one or a list
        images = vae.decode(encoded.mean)       # uint8 [N, H, W, C]

No call has side effects, so a request that gets 429 or 503 is sent again after its Retry-After. The retries are
written here, because a transport such as httpx-retries would be a third dependency and has no limit on Retry-After.
An error of the connection is that of httpx, and names the URL.
"""

import asyncio
import time
from typing import Any, Self, TypeVar

import httpx
import numpy as np

from app.client import requests as specs
from app.client.requests import Encoded, Images, Problem, RequestSpec, Sampled, Scored, Size

__all__ = ["AsyncClient", "Client", "Encoded", "Images", "Problem", "Sampled", "Scored", "Size"]

T = TypeVar("T")

_RETRIED = (429, 503)
_MAX_RETRY_AFTER = 60.0


class Client:
    """A client of one service. A request that gets 429 or 503 is sent again up to `retries` times, after Retry-After.

    A Retry-After of more than 60 seconds raises `Problem` at once. `options` are those of `httpx.Client`; the API key
    replaces an Authorization header among them.
    """

    def __init__(self, url: str, *, api_key: str | None = None, retries: int = 3, **options: Any) -> None:
        self._http = httpx.Client(base_url=specs.base_url(url), **_options(api_key, **options))
        self._retries = retries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def encode(
        self,
        images: Images,
        *,
        samples: int | None = None,
        seed: int | None = None,
        fit: str | None = None,
        size: Size | None = None,
        scaled: bool = False,
    ) -> Encoded:
        """Return the posterior of each image, and `samples` draws from it.

        `size` (H, W) is the one to which a model of many sizes resizes images, by default their own. With `scaled`,
        latents are in the units of the diffusion model.
        """
        return self._send(specs.encode(images, size, scaled, samples=samples, seed=seed, fit=fit))

    def decode(self, latents: np.ndarray | Encoded, *, scaled: bool = False) -> np.ndarray:
        """Return the mean image of each latent [N, *latent], uint8 [N, H, W, C], or of each draw [L, N, *latent].

        Of an `Encoded` the means are decoded. With `scaled`, latents are in the units of the diffusion model. Raises
        `ValueError` for arrays of other dimensions.
        """
        return self._send(specs.decode(latents, scaled))

    def reconstruct(
        self, images: Images, *, seed: int | None = None, fit: str | None = None, size: Size | None = None
    ) -> np.ndarray:
        """Encode and decode images, uint8 [N, H, W, C]; at the posterior mean, or with `seed` at a draw."""
        return self._send(specs.reconstruct(images, size, seed=seed, fit=fit))

    def sample(
        self,
        n: int,
        *,
        seed: int | None = None,
        temperature: float | None = None,
        size: Size | None = None,
        force: bool = False,
    ) -> Sampled:
        """Return images decoded from draws from N(0, I); `force` allows a model without this prior."""
        return self._send(specs.sample(n, size, force, seed=seed, temperature=temperature))

    def score(
        self,
        images: Images,
        *,
        samples: int | None = None,
        seed: int | None = None,
        fit: str | None = None,
        size: Size | None = None,
    ) -> Scored:
        """Return the ELBO of each image and its terms; with `samples` also the importance-weighted bound.

        Images that are sent one by one with the same `seed` are scored with the same draw. Of a model without a density
        the error of the reconstruction is returned.
        """
        return self._send(specs.score(images, size, samples=samples, seed=seed, fit=fit))

    def model(self) -> dict[str, Any]:
        """Describe the served model: name, digest, shapes, likelihood, architecture, runtime."""
        return self._send(specs.model())

    def history(self) -> dict[str, Any]:
        """Return the name of the served model, and its metrics.json with the history of training and evaluation."""
        return self._send(specs.history())

    def _send(self, spec: RequestSpec[T]) -> T:
        request = spec.request(self._http)
        for _ in range(self._retries):
            response = self._send_once(request)
            if (delay := _retry_delay(response)) is None:
                return spec.result(response)
            time.sleep(delay)
        return spec.result(self._send_once(request))

    def _send_once(self, request: httpx.Request) -> httpx.Response:
        with specs.naming_url(request):
            return self._http.send(request)


class AsyncClient:
    """`Client` for asyncio, call for call."""

    def __init__(self, url: str, *, api_key: str | None = None, retries: int = 3, **options: Any) -> None:
        self._http = httpx.AsyncClient(base_url=specs.base_url(url), **_options(api_key, **options))
        self._retries = retries

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
    ) -> Encoded:
        """As `Client.encode`."""
        return await self._send(specs.encode(images, size, scaled, samples=samples, seed=seed, fit=fit))

    async def decode(self, latents: np.ndarray | Encoded, *, scaled: bool = False) -> np.ndarray:
        """As `Client.decode`."""
        return await self._send(specs.decode(latents, scaled))

    async def reconstruct(
        self, images: Images, *, seed: int | None = None, fit: str | None = None, size: Size | None = None
    ) -> np.ndarray:
        """As `Client.reconstruct`."""
        return await self._send(specs.reconstruct(images, size, seed=seed, fit=fit))

    async def sample(
        self,
        n: int,
        *,
        seed: int | None = None,
        temperature: float | None = None,
        size: Size | None = None,
        force: bool = False,
    ) -> Sampled:
        """As `Client.sample`."""
        return await self._send(specs.sample(n, size, force, seed=seed, temperature=temperature))

    async def score(
        self,
        images: Images,
        *,
        samples: int | None = None,
        seed: int | None = None,
        fit: str | None = None,
        size: Size | None = None,
    ) -> Scored:
        """As `Client.score`."""
        return await self._send(specs.score(images, size, samples=samples, seed=seed, fit=fit))

    async def model(self) -> dict[str, Any]:
        """As `Client.model`."""
        return await self._send(specs.model())

    async def history(self) -> dict[str, Any]:
        """As `Client.history`."""
        return await self._send(specs.history())

    async def _send(self, spec: RequestSpec[T]) -> T:
        request = spec.request(self._http)
        for _ in range(self._retries):
            response = await self._send_once(request)
            if (delay := _retry_delay(response)) is None:
                return spec.result(response)
            await asyncio.sleep(delay)
        return spec.result(await self._send_once(request))

    async def _send_once(self, request: httpx.Request) -> httpx.Response:
        with specs.naming_url(request):
            return await self._http.send(request)


def _options(api_key: str | None, **options: Any) -> dict[str, Any]:
    headers = httpx.Headers(options.get("headers"))
    if api_key:
        headers.update([(b"Authorization", f"Bearer {api_key}".encode())])  # as bytes: a str has to be ASCII
    return {"timeout": 60.0, **options, "headers": headers}


def _retry_delay(response: httpx.Response) -> float | None:
    """Seconds until the request is sent again; None if it is not."""
    if response.status_code not in _RETRIED:
        return None
    value = response.headers.get("retry-after", "")
    seconds = float(value) if value.isdecimal() else 1.0  # it may be a date
    return seconds if seconds <= _MAX_RETRY_AFTER else None
