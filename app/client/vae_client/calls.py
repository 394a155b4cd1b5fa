"""Calls of the client: the requests that one takes, and the reading of their responses.

They are sent by `client` and `async_client` alike. A call with more items or bytes than one request should have is
divided into several, in the order of its items.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from secrets import randbits
from threading import Lock
from typing import Any, Generic, NamedTuple, TypeVar

import httpx
import numpy as np

from .arguments import Size, function, integer, sides
from .items import NPY, Draws, Images, Items, Rows, Tensor, Whole, as_numpy, image_items
from .responses import not_expected, problem, read_array, read_encoded, read_object, read_sampled, read_scored
from .results import (
    Encoded,
    Problem,
    Sampled,
    Scored,
    join_arrays,
    join_encoded,
    join_sampled,
    join_scored,
)
from .retries import Tries

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Called with the items of a call that are done, and with all of them."""

SCORE_DRAWS = 8
"""Draws of each image that the service takes for a score without `samples`."""

_JSON = "application/json"
_ITEM = re.compile(r"\b(images|latents)\[([0-9]{1,9})\]")
"""An item in the detail of an error, by its place in the request."""

_TOO_LARGE, _OUT_OF_TIME = 413, 504


class Counter:
    """Counts the items of a call that are done, in any thread, for a function that shows the progress."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, function("progress", progress)
        self._lock = Lock()

    def add(self, count: int) -> None:
        """Count the items of a request that was answered."""
        with self._lock:
            self._done += count
            if self._progress:
                self._progress(self._done, self._total)


class Span(NamedTuple):
    """The items of one request, from `start` up to `stop`."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request of a client has at most: images or latents with their draws, and bytes of its body."""

    items: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A call: its requests, the function that reads a response, and the one that joins the results of several.

    `read` is given the response and the number of rows that it must have: `rows`, by default one for each item of the
    request. `draws` are those of each item, `seed` is that of the call if it draws.
    """

    method: str
    path: str
    read: Callable[[httpx.Response, int], T]
    join: Callable[[Sequence[T]], T]
    accept: str = NPY
    params: dict[str, Any] = field(default_factory=dict)
    items: Items | None = None
    draws: int = 1
    seed: int | None = None
    rows: int | None = None

    @property
    def count(self) -> int:
        """The number of items."""
        return len(self.items.sizes) if self.items else 1

    def spans(self, limits: Limits) -> Iterator[Span]:
        """Divide the items into requests."""
        sizes = self.items.sizes if self.items else [0]
        most = max(1, limits.items // max(1, self.draws))
        start, total = 0, 0
        for index, size in enumerate(sizes):
            if index > start and (index - start >= most or total + size > limits.bytes):
                yield Span(start, index)
                start, total = index, 0
            total += size
        yield Span(start, len(sizes))

    def halves(self, span: Span, error: Problem, tries: Tries) -> tuple[Span, Span]:
        """Divide a request that was too large, or took the service too long; raises the error for any other.

        After 504 a request is not divided if its own timeout is over, or if its draws would depend on the load of the
        service.
        """
        middle = (span.start + span.stop) // 2
        divisible = error.status == _TOO_LARGE or (
            error.status == _OUT_OF_TIME and self._draws_alike_in_parts and not tries.is_over()
        )
        if not divisible or middle == span.start:
            raise error
        return Span(span.start, middle), Span(middle, span.stop)

    @property
    def _draws_alike_in_parts(self) -> bool:
        """Whether no item has other draws in another part; those of /score follow from the pixels as well."""
        return self.seed is None or self.path == "/score"

    def seed_of_part(self, start: int) -> int | None:
        """Return the seed of the part that begins with an item: its own draws, and the seed itself for the first.

        The service draws the same numbers for the first image of every request with one seed.
        """
        if start == 0 or self._draws_alike_in_parts:
            return self.seed
        return int(np.random.SeedSequence([self.seed, start]).generate_state(1, np.uint64)[0] >> 1)

    def request(self, http: "httpx.Client | httpx.AsyncClient", span: Span, tries: Tries) -> httpx.Request:
        """Build the request for some of the items; parameters that are None are left out."""
        arguments = self.items.arguments(*span) if self.items else {}
        params = {**self.params, **arguments.pop("params", {}), "seed": self.seed_of_part(span.start)}
        headers = {"Accept": self.accept, **arguments.pop("headers", {}), **tries.headers()}
        return http.build_request(
            self.method,
            self.path,
            params={name: value for name, value in params.items() if value is not None},
            headers=headers,
            **tries.arguments(),
            **arguments,
        )

    def result(self, response: httpx.Response, span: Span) -> T:
        """Read the response to some of the items; raises `Problem` for an error and for what cannot be read."""
        if not response.is_success:
            raise problem(response, lambda detail: self._placed(detail, span.start))
        rows = span.stop - span.start if self.rows is None else self.rows
        try:
            return self.read(response, rows)
        except Exception as error:  # the libraries raise any exception for a body that is not one of the service
            expected = f"{rows} items in {self.accept}" if self.items else f"a JSON object in {self.accept}"
            raise not_expected(response, expected, error) from error

    def _placed(self, detail: str, start: int) -> str:
        """Name items of a request that begins at `start` by their places in the call."""
        items = self.items
        return _ITEM.sub(lambda item: item[1] + items.place(start + int(item[2])), detail) if items else detail


def with_headers(api_key: str | None, **options: Any) -> dict[str, Any]:
    """Return options of httpx with the headers of all requests; the API key replaces an Authorization header."""
    headers = httpx.Headers(options.get("headers"))
    headers.setdefault("Accept-Encoding", "identity")  # arrays hardly shrink, and JSON is faster as it is
    if api_key:
        headers.update([(b"Authorization", f"Bearer {api_key}".encode())])  # as bytes: a str has to be ASCII
    return {**options, "headers": headers}


def encode(
    images: Images, samples: int | None, seed: int | None, fit: str | None, size: Size | None, scaled: bool
) -> Call[Encoded]:
    """POST /encode."""
    params = {"samples": samples, "fit": fit, **sides(size), **_flag("scaled", scaled)}
    drawn = seed if samples is None else _seed(seed)
    return Call(
        "POST",
        "/encode",
        read_encoded,
        join_encoded,
        params=params,
        items=image_items(images),
        draws=integer("samples", samples or 1),
        seed=drawn,
    )


def decode(latents: "np.ndarray | Tensor | Encoded", scaled: bool) -> Call[np.ndarray]:
    """POST /decode. Draws are sent as L * N latents, because /decode reads one more dimension as an `Encoded`.

    A latent has one or three dimensions, so an array has two or four, or with draws three or five. Raises `ValueError`
    for other arrays, and `TypeError` for what is no array.
    """
    array = _latents(latents)
    axes = 1 if array.ndim in (2, 4) else 2
    leading, latent = array.shape[:axes], array.shape[axes:]

    def join(parts: Sequence[np.ndarray]) -> np.ndarray:
        images = join_arrays(parts)
        return images.reshape(*leading, *images.shape[1:])

    rows = Rows(array.reshape(math.prod(leading), *latent), leading)
    return Call("POST", "/decode", read_array, join, params=_flag("scaled", scaled), items=rows)


def reconstruct(
    images: Images, seed: int | None, fit: str | None, size: Size | None, output: str | None = None
) -> Call[np.ndarray]:
    """POST /reconstruct."""
    params = {"fit": fit, "output": output, **sides(size)}
    return Call("POST", "/reconstruct", read_array, join_arrays, params=params, items=image_items(images), seed=seed)


def interpolate(
    ends: "Images | Encoded", steps: int, mode: str, fit: str | None, size: Size | None, scaled: bool
) -> Call[np.ndarray]:
    """POST /interpolate. Arrays of floats are latents, as the service reads them; anything else is images."""
    items = Rows(_latents(ends)) if isinstance(ends, Encoded) or _is_float(ends) else image_items(ends)
    if len(items.sizes) != 2:
        raise ValueError(f"ends: expected two images or two latents, got {len(items.sizes)}")
    params = {"steps": integer("steps", steps), "mode": mode, "fit": fit, **sides(size), **_flag("scaled", scaled)}
    return Call("POST", "/interpolate", read_array, join_arrays, params=params, items=Whole(items), rows=steps)


def _is_float(ends: Any) -> bool:
    return isinstance(ends, np.ndarray | Tensor) and np.issubdtype(as_numpy(ends).dtype, np.floating)


def sample(n: int, seed: int | None, temperature: float | None, size: Size | None, force: bool) -> Call[Sampled]:
    """GET /sample."""
    params = {"temperature": temperature, **sides(size), **_flag("force", force)}
    return Call(
        "GET", "/sample", read_sampled, join_sampled, params=params, items=Draws(integer("n", n)), seed=_seed(seed)
    )


def score(
    images: Images, samples: int | None, alpha: float | None, seed: int | None, fit: str | None, size: Size | None
) -> Call[Scored]:
    """POST /score."""
    params = {"samples": samples, "alpha": alpha, "fit": fit, **sides(size)}
    draws = integer("samples", samples or SCORE_DRAWS)
    return Call("POST", "/score", read_scored, join_scored, _JSON, params, image_items(images), draws, _seed(seed))


def model() -> Call[dict[str, Any]]:
    """GET /model."""
    return Call("GET", "/model", read_object, lambda parts: parts[0], _JSON)


def history() -> Call[dict[str, Any]]:
    """GET /model/history."""
    return Call("GET", "/model/history", read_object, lambda parts: parts[0], _JSON)


def _seed(seed: int | None) -> int:
    """Return the seed of a call that draws: the one of the caller, or a new one, from which parts have theirs."""
    return randbits(63) if seed is None else integer("seed", seed)


def _flag(name: str, value: bool) -> dict[str, str]:
    return {name: "true"} if value else {}


def _latents(latents: "np.ndarray | Tensor | Encoded") -> np.ndarray:
    try:
        array = np.asarray(as_numpy(latents.mean if isinstance(latents, Encoded) else latents), np.float32)
    except (TypeError, ValueError) as error:
        what = f"an array of numbers or an Encoded, got {type(latents).__name__}"
        raise type(error)(f"latents: expected {what}: {error}") from None
    if not 2 <= array.ndim <= 5:
        raise ValueError(f"latents: expected an array [N, *latent] or [L, N, *latent], got {list(array.shape)}")
    return array
