"""Requests of the client and the reading of their responses, for synchronous and asynchronous sending alike."""

import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import httpx
import numpy as np

File = str | Path | bytes
Images = np.ndarray | Sequence[np.ndarray] | File | Sequence[File]
"""Arrays, or image files by path or as bytes.

Neither an array nor a file raises `TypeError`; no image at all, arrays of different shapes, or both kinds `ValueError`.
"""

Size = tuple[int, int]
"""Height and width of images in pixels."""

T = TypeVar("T")

_NPY = "application/x-npy"


class Problem(Exception):
    """An error response: its status, title and detail, and the request id under which the service has logged it."""

    def __init__(self, response: httpx.Response) -> None:
        is_problem = response.headers.get("content-type") == "application/problem+json"
        body: dict[str, Any] = response.json() if is_problem else {}
        self.status = response.status_code
        self.title = str(body.get("title", response.reason_phrase))
        self.detail = str(body.get("detail", "the response is not one of the service"))
        self.request_id = response.headers.get("x-request-id", "")
        super().__init__(f"{self.status} {self.title}: {self.detail}")


class Encoded(NamedTuple):
    """q(z|x): `mean` and `logvar` [N, *latent], the draws `z` [L, N, *latent] (L is 0 without samples), their seed.

    The `logvar` of a deterministic encoder is minus infinity: the variance is 0.
    """

    mean: np.ndarray
    logvar: np.ndarray
    z: np.ndarray
    seed: int | None


class Sampled(NamedTuple):
    """Images, uint8 [N, H, W, C], and the seed that reproduces them."""

    images: np.ndarray
    seed: int


class Scored(NamedTuple):
    """Scores of each image, [N], in nats, higher is better; `log_likelihood` only with samples.

    `bits_per_dim` is better the lower it is. `percentile`, 0 to 100, is the rank of each ELBO among those of the images
    on which the model was evaluated; None without an evaluation. Of a model without a density, `squared_error` is the
    mean of the reconstruction's squared error, `psnr` its ratio in decibels, and what is not defined is NaN.
    """

    elbo: np.ndarray
    reconstruction: np.ndarray
    kl: np.ndarray
    bits_per_dim: np.ndarray
    percentile: np.ndarray | None
    log_likelihood: np.ndarray | None
    seed: int | None
    squared_error: np.ndarray | None = None
    psnr: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class RequestSpec(Generic[T]):
    """A request, and the function that reads its response."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    accept: str = _NPY
    params: dict[str, Any] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)

    def request(self, http: "httpx.Client | httpx.AsyncClient") -> httpx.Request:
        """Build the request; parameters that are None are left out."""
        params = {name: value for name, value in self.params.items() if value is not None}
        body = dict(self.body)
        headers = {"Accept": self.accept, **body.pop("headers", {})}
        return http.build_request(self.method, self.path, params=params, headers=headers, **body)

    def result(self, response: httpx.Response) -> T:
        """Read the response; raises `Problem` for an error."""
        if not response.is_success:
            raise Problem(response)
        return self.read(response)


def base_url(url: str) -> str:
    """Check the address of a service. Raises `ValueError` for one without http:// or https://."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"url: expected an address such as http://localhost:8000, got {url!r}")
    return url


@contextmanager
def naming_url(request: httpx.Request) -> Iterator[None]:
    """Add the URL of the request to an error of the connection; httpx has only the words of the operating system."""
    try:
        yield
    except httpx.TransportError as error:
        kind, url = type(error), request.url.copy_with(userinfo=b"")  # without a password
        raise kind(f"{request.method} {url}: {str(error) or kind.__name__}", request=request) from error


def encode(images: Images, size: Size | None = None, scaled: bool = False, **params: Any) -> RequestSpec[Encoded]:
    """POST /encode."""
    params |= _sides(size) | _flag("scaled", scaled)
    return RequestSpec("POST", "/encode", _encoded, params=params, body=_images_body(images))


def decode(latents: np.ndarray | Encoded, scaled: bool = False) -> RequestSpec[np.ndarray]:
    """POST /decode. Draws are sent as L * N latents, because /decode reads one more dimension as an `Encoded`.

    A latent has one or three dimensions, so an array has two or four, or with draws three or five. Raises `ValueError`
    for other arrays, and `TypeError` for what is no array.
    """
    try:
        array = np.asarray(latents.mean if isinstance(latents, Encoded) else latents, np.float32)
    except (TypeError, ValueError) as error:
        what = f"an array of numbers or an Encoded, got {type(latents).__name__}"
        raise type(error)(f"latents: expected {what}: {error}") from None
    if not 2 <= array.ndim <= 5:
        raise ValueError(f"latents: expected an array [N, *latent] or [L, N, *latent], got {list(array.shape)}")
    axes = 1 if array.ndim in (2, 4) else 2
    leading, latent = array.shape[:axes], array.shape[axes:]
    body = _npy_body(array.reshape(math.prod(leading), *latent))
    params = _flag("scaled", scaled)
    return RequestSpec(
        "POST", "/decode", lambda response: _unflatten(_array(response), leading), params=params, body=body
    )


def reconstruct(images: Images, size: Size | None = None, **params: Any) -> RequestSpec[np.ndarray]:
    """POST /reconstruct."""
    return RequestSpec("POST", "/reconstruct", _array, params=params | _sides(size), body=_images_body(images))


def sample(n: int, size: Size | None = None, force: bool = False, **params: Any) -> RequestSpec[Sampled]:
    """GET /sample."""
    return RequestSpec("GET", "/sample", _sampled, params={"n": n, **params, **_sides(size), **_flag("force", force)})


def score(images: Images, size: Size | None = None, **params: Any) -> RequestSpec[Scored]:
    """POST /score."""
    params |= _sides(size)
    return RequestSpec("POST", "/score", _scored, "application/json", params, _images_body(images))


def model() -> RequestSpec[dict[str, Any]]:
    """GET /model."""
    return RequestSpec("GET", "/model", lambda response: dict(response.json()), "application/json")


def history() -> RequestSpec[dict[str, Any]]:
    """GET /model/history."""
    return RequestSpec("GET", "/model/history", lambda response: dict(response.json()), "application/json")


def _sides(size: Size | None) -> dict[str, int]:
    return {} if size is None else {"height": size[0], "width": size[1]}


def _flag(name: str, value: bool) -> dict[str, str]:
    return {name: "true"} if value else {}


def _npy_body(array: np.ndarray) -> dict[str, Any]:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return {"content": stream.getvalue(), "headers": {"Content-Type": _NPY}}


def _images_body(images: Images) -> dict[str, Any]:
    if isinstance(images, np.ndarray):
        return _npy_body(images)
    if not isinstance(images, File | Iterable) or hasattr(images, "read"):  # an open file iterates over its lines
        raise _not_images("images", images, ", or a list of them")
    items = [images] if isinstance(images, File) else list(images)
    if not items:
        raise ValueError("images: expected at least one")
    for index, image in enumerate(items):
        if not isinstance(image, np.ndarray | File):
            raise _not_images(f"images[{index}]", image)
    arrays = [image for image in items if isinstance(image, np.ndarray)]
    files = [image for image in items if not isinstance(image, np.ndarray)]
    if arrays and files:
        raise ValueError("images: expected arrays alone, or paths and bytes alone, got both")
    return _npy_body(_stacked(arrays)) if arrays else _files_body(files)


def _not_images(name: str, value: object, more: str = "") -> TypeError:
    what = f"an array, or the path or bytes of an image file{more}"
    return TypeError(f"{name}: expected {what}, got {type(value).__name__}")


def _files_body(files: Sequence[File]) -> dict[str, Any]:
    contents = [file if isinstance(file, bytes) else Path(file).read_bytes() for file in files]
    return {"files": [("images", (f"{index}", content)) for index, content in enumerate(contents)]}


def _stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    shape = list(arrays[0].shape)
    for index, array in enumerate(arrays):
        if list(array.shape) != shape:
            raise ValueError(f"images[{index}]: expected an array {shape} as the first, got {list(array.shape)}")
    return np.stack(arrays)


def _array(response: httpx.Response) -> np.ndarray:
    array: np.ndarray = np.load(io.BytesIO(response.content), allow_pickle=False)
    return array


def _unflatten(images: np.ndarray, leading: tuple[int, ...]) -> np.ndarray:
    return images.reshape(*leading, *images.shape[1:])


def _encoded(response: httpx.Response) -> Encoded:
    array = _array(response)
    seed = response.headers.get("x-seed")
    logvar = array[1] if len(array) > 1 else np.full_like(array[0], -np.inf)
    return Encoded(array[0], logvar, array[2:], int(seed) if seed else None)


def _sampled(response: httpx.Response) -> Sampled:
    return Sampled(_array(response), int(response.headers["x-seed"]))


def _scored(response: httpx.Response) -> Scored:
    scores, seed = response.json()["scores"], response.headers.get("x-seed")
    columns: dict[str, Any] = {name: np.array([score[name] for score in scores], float) for name in scores[0]}
    undefined = dict.fromkeys(("elbo", "reconstruction", "kl", "bits_per_dim"), np.full(len(scores), np.nan))
    fields = {**undefined, "percentile": None, "log_likelihood": None, **columns}
    return Scored(**fields, seed=int(seed) if seed else None)
