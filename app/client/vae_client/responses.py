"""Responses: their receipt within a time and a size, and what the calls read from them.

A response that is not one of the service raises `Problem`. The functions that read a result
are given the number of its rows, and raise any exception for a body that they cannot read; `Call.result` makes it a
`Problem`.
"""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import numpy as np

from .results import Encoded, Problem, Sampled, Scored
from .retries import Tries

_PROBLEM = "application/problem+json"
_QUOTED = 100
"""Characters of a body or an error of a library that the detail of a `Problem` has."""


class Body:
    """The body of a response while it arrives: at most `most` bytes, decompressed, in the time of the tries."""

    def __init__(self, response: httpx.Response, most: int, tries: Tries) -> None:
        self._response, self._most, self._tries = response, most, tries
        self._chunks: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> None:
        """Add what arrived; raises `Problem` for too many bytes, `httpx.ReadTimeout` after the time."""
        self._tries.require_time()
        self._size += len(chunk)
        if self._size > self._most:
            reason = f"expected at most {self._most} bytes (max_response_bytes), got more"
            raise unreadable(self._response, reason)
        self._chunks.append(chunk)

    def response(self) -> httpx.Response:
        """Return the response with its body."""
        headers = self._response.headers.copy()
        headers.pop("content-encoding", None)  # the body is decompressed
        status, extensions = self._response.status_code, self._response.extensions
        content = b"".join(self._chunks)
        return httpx.Response(
            status, headers=headers, content=content, request=self._response.request, extensions=extensions
        )


@contextmanager
def receiving(response: httpx.Response, most: int, tries: Tries) -> Iterator[Body]:
    """Receive the body of a response; raises `Problem` for one that cannot be decompressed."""
    try:
        yield Body(response, most, tries)
    except httpx.DecodingError as error:
        encoding = response.headers.get("content-encoding")
        raise unreadable(response, f"expected a body that decompresses as {encoding!r}, got: {error}") from error


@contextmanager
def naming_url(request: httpx.Request) -> Iterator[None]:
    """Add the URL of the request to an error of the connection; httpx has only the words of the operating system."""
    try:
        yield
    except httpx.TransportError as error:
        kind = type(error)
        raise kind(f"{_described(request)}: {str(error) or kind.__name__}", request=request) from error


def _described(request: httpx.Request) -> str:
    return f"{request.method} {request.url.copy_with(userinfo=b'')}"  # without a password


def problem(response: httpx.Response, placed: Callable[[str], str]) -> Problem:
    """Return the error of a response; `placed` names items in its detail as the caller does."""
    body: Any = None
    if response.headers.get("content-type", "").partition(";")[0].strip().lower() == _PROBLEM:
        with suppress(ValueError, RecursionError):
            body = response.json()
    known = body if isinstance(body, dict) else {}
    beginning = response.content[: 4 * _QUOTED].decode(errors="replace")[:_QUOTED]
    title = str(known.get("title", response.reason_phrase))
    detail = str(known.get("detail", f"the response is not one of the service: {beginning!r}"))
    return Problem(response.status_code, title, placed(detail), _request_id(response))


def unreadable(response: httpx.Response, reason: str) -> Problem:
    """Return the error of a response that cannot be read."""
    detail = f"{_described(response.request)}: {reason}"
    return Problem(response.status_code, "Unreadable response", detail, _request_id(response))


def not_expected(response: httpx.Response, expected: str, error: Exception) -> Problem:
    """Return the error of a response whose body is not the result that was expected."""
    kind = response.headers.get("content-type", "no type")[:_QUOTED]
    reason = f"{type(error).__name__}: {error}"[:_QUOTED]
    return unreadable(response, f"expected {expected}, got {len(response.content)} bytes of {kind}: {reason}")


def _request_id(response: httpx.Response) -> str:
    return str(response.headers.get("x-request-id", ""))


def read_object(response: httpx.Response, _: int) -> dict[str, Any]:
    """Read a JSON object."""
    value = json.loads(response.content)
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {type(value).__name__}")
    return value


def read_array(response: httpx.Response, rows: int) -> np.ndarray:
    """Read an array with a number of rows."""
    return _with_rows(_array(response), 0, rows)


def read_encoded(response: httpx.Response, rows: int) -> Encoded:
    """Read means, log-variances and draws, each with a number of rows."""
    array = _with_rows(_array(response), 1, rows)
    logvar = array[1] if len(array) > 1 else np.full_like(array[0], -np.inf)
    return Encoded(array[0], logvar, array[2:], _seed(response))


def read_sampled(response: httpx.Response, rows: int) -> Sampled:
    """Read images and the seed of their draws."""
    return Sampled(read_array(response, rows), int(response.headers["x-seed"]))


def read_scored(response: httpx.Response, rows: int) -> Scored:
    """Read the columns of scores; those of a model without a density are NaN."""
    scores = json.loads(response.content)["scores"]
    if len(scores) != rows:
        raise ValueError(f"expected {rows} scores, got {len(scores)}")
    if not scores[0].keys() & {"elbo", "squared_error"}:
        raise ValueError("expected elbo or squared_error in each score")
    columns: dict[str, Any] = {
        name: np.array([score[name] for score in scores], bool if name == "anomalous" else float) for name in scores[0]
    }
    undefined = dict.fromkeys(("elbo", "reconstruction", "kl", "bits_per_dim"), np.full(len(scores), np.nan))
    fields = {**undefined, "percentile": None, "log_likelihood": None, **columns}
    return Scored(**fields, seed=_seed(response))


def _array(response: httpx.Response) -> np.ndarray:
    array: np.ndarray = np.lib.format.read_array(io.BytesIO(response.content), allow_pickle=False)
    if array.dtype.kind not in "uif":
        raise ValueError(f"expected numbers, got {array.dtype}")
    return array


def _with_rows(array: np.ndarray, axis: int, rows: int) -> np.ndarray:
    if array.ndim <= axis or array.shape[axis] != rows:
        raise ValueError(f"expected {rows} along axis {axis}, got an array {[*array.shape]}")
    return array


def _seed(response: httpx.Response) -> int | None:
    seed = response.headers.get("x-seed")
    return int(seed) if seed else None
