"""The synchronous client."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
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


class Client(BaseClient[httpx.Client]):
    """A client of one service; it may be used by several threads.

    A request that gets 429 or 503, or whose connection is lost, is sent again up to `retries` times, not before its
    Retry-After; a Retry-After of more than 60 seconds raises `Problem` at once. `timeout` is the number of seconds that
    a request and its retries may take together; the service gets it as X-Request-Timeout, and stops working after it.
    The client waits a second longer, and looks at the time whenever a part of the response arrives. None means no limit
    but the service's. A response has at most `max_response_bytes`, counted after decompression.

    A call of more than `max_items` images or latents, counted with their draws, or of more than `max_bytes` is sent as
    several requests, `concurrency` at once. Results keep the order of the items. Each part of such a call has its own
    draws, which follow from its seed and the limits. A request that the service finds too large is sent as two halves,
    each with a timeout of its own. So is a request of `score`, or of a call without draws, that got 504 before its
    timeout was over; draws of other calls would depend on the load of the service. `progress` of a call is called after
    each response, in any thread, with the number of items that are done and of all.

    An error response and one that cannot be read raise `Problem`, an error of the connection that of httpx with the URL
    in its text. An argument of a wrong type, such as one that is no image, raises `TypeError`, one out of its range
    `ValueError`, before a request is sent. `options` are those of `httpx.Client`; the API key replaces an Authorization
    header among them.
    """

    def _connect(self, **options: Any) -> httpx.Client:
        return httpx.Client(**options)

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
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> Encoded:
        """Return the posterior of each image, and `samples` draws from it.

        `size` (H, W) is the one to which a model of many sizes resizes images, by default their own. With `scaled`,
        latents are in the units of the diffusion model. `timeout` replaces that of the client, here as in all calls.
        """
        return self._call(calls.encode(images, samples, seed, fit, size, scaled), timeout, progress)

    def decode(
        self,
        latents: np.ndarray | Tensor | Encoded,
        *,
        scaled: bool = False,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Return the mean image of each latent [N, *latent], uint8 [N, H, W, C], or of each draw [L, N, *latent].

        Of an `Encoded` the means are decoded. With `scaled`, latents are in the units of the diffusion model. Raises
        `ValueError` for arrays of other dimensions.
        """
        return self._call(calls.decode(latents, scaled), timeout, progress)

    def reconstruct(
        self,
        images: Images,
        *,
        seed: int | None = None,
        fit: str | None = None,
        size: Size | None = None,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Encode and decode images, uint8 [N, H, W, C]; at the posterior mean, or with `seed` at a draw."""
        return self._call(calls.reconstruct(images, seed, fit, size), timeout, progress)

    def deviations(
        self,
        images: Images,
        *,
        seed: int | None = None,
        fit: str | None = None,
        size: Size | None = None,
        timeout: float | None = None,
    ) -> np.ndarray:
        """Return images minus their reconstructions, float32 [N, H, W, C].

        They are in standard deviations of p(x|z), and in pixel values in [0, 1] if the likelihood has no scale.
        """
        return self._call(calls.reconstruct(images, seed, fit, size, output="error"), timeout)

    def sample(
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
        """Return images decoded from draws from N(0, I); `force` allows a model without this prior."""
        return self._call(calls.sample(n, seed, temperature, size, force), timeout, progress)

    def interpolate(
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
        """Return images between two, uint8 [steps, H, W, C], with both ends.

        `ends` are two images, or two latents: an `Encoded`, or an array of floats. `mode` is "linear", a straight line
        between the latents, or "slerp", a great circle.
        """
        return self._call(calls.interpolate(ends, steps, mode, fit, size, scaled), timeout)

    def score(
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
        """Return the ELBO of each image and its terms; with `samples` also the importance-weighted bound.

        The draws of an image follow from `seed` and its pixels. Of a model without a density the error of the
        reconstruction is returned. With `alpha` images with a typicality of at most that are marked as anomalous.
        """
        return self._call(calls.score(images, samples, alpha, seed, fit, size), timeout, progress)

    def model(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Describe the served model: name, digest, shapes, likelihood, architecture, runtime."""
        return self._call(calls.model(), timeout)

    def history(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Return the name of the served model, and its metrics.json with the history of training and evaluation."""
        return self._call(calls.history(), timeout)

    def _call(self, call: Call[T], timeout: float | None, progress: Progress | None = None) -> T:
        seconds = self._seconds(timeout)
        spans, counter = list(call.spans(self._limits)), Counter(call.count, progress)
        send = partial(self._send_part, call, timeout=seconds, counter=counter)
        if len(spans) == 1 or self._concurrency == 1:
            return call.join([result for span in spans for result in send(span)])
        with ThreadPoolExecutor(min(self._concurrency, len(spans)), "vae-client") as threads:
            parts = [threads.submit(send, span) for span in spans]
            try:
                return call.join([result for part in parts for result in part.result()])
            finally:
                for part in parts:  # after an error the others are of no use
                    part.cancel()

    def _send_part(self, call: Call[T], span: Span, timeout: float | None, counter: Counter) -> list[T]:
        tries = Tries(self._retries, timeout)
        try:
            result = call.result(self._send(call, span, tries), span)
        except Problem as error:
            halves = call.halves(span, error, tries)
            return [result for half in halves for result in self._send_part(call, half, timeout, counter)]
        counter.add(span.stop - span.start)
        return [result]

    def _send(self, call: Call[Any], span: Span, tries: Tries) -> httpx.Response:
        while True:
            request = call.request(self._http, span, tries)
            try:
                with naming_url(request):
                    response = self._receive(request, tries)
            except LOST:
                if (pause := tries.pause(None)) is None:
                    raise
            else:
                if (pause := tries.pause(response)) is None:
                    return response
            time.sleep(pause)

    def _receive(self, request: httpx.Request, tries: Tries) -> httpx.Response:
        response = self._http.send(request, stream=True)
        with closing(response), receiving(response, self._max_response_bytes, tries) as body:
            for chunk in response.iter_bytes():
                body.add(chunk)
        return body.response()
