"""What the client asks, and how it reads the answer; knows neither whether it is sent sync or async."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import httpx
import numpy as np

File = str | Path | bytes
Images = np.ndarray | Sequence[np.ndarray] | File | Sequence[File]
"""Arrays, or picture files by their paths or bytes; none, arrays of unequal shapes or both raise `ValueError`."""

T = TypeVar("T")

_NPY = "application/x-npy"


class Problem(Exception):
    """What the service answered instead: its status, its sentence, and the id under which its log has it."""

    def __init__(self, response: httpx.Response) -> None:
        is_problem = response.headers.get("content-type") == "application/problem+json"
        body: dict[str, Any] = response.json() if is_problem else {}
        self.status = response.status_code
        self.title = str(body.get("title", response.reason_phrase))
        self.detail = str(body.get("detail", "the answer did not come from the service"))
        self.request_id = response.headers.get("x-request-id", "")
        super().__init__(f"{self.status} {self.title}: {self.detail}")


class Encoded(NamedTuple):
    """q(z|x): `mean` and `logvar` [N, *latent], the draws `z` [L, N, *latent] (L is 0 without samples), their seed."""

    mean: np.ndarray
    logvar: np.ndarray
    z: np.ndarray
    seed: int | None


class Sampled(NamedTuple):
    """New images, uint8 [N, H, W, C], and the seed that gives them again."""

    images: np.ndarray
    seed: int


class Scored(NamedTuple):
    """Nats for each image, [N], higher is better; `log_likelihood` only with samples. Fewer bits are better.

    `percentile`, 0 to 100, is each ELBO's place among the images that the model was evaluated on, where it was.
    """

    elbo: np.ndarray
    reconstruction: np.ndarray
    kl: np.ndarray
    bits_per_dim: np.ndarray
    percentile: np.ndarray | None
    log_likelihood: np.ndarray | None
    seed: int


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """A request, and how its answer is read."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    accept: str = _NPY
    params: dict[str, Any] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)

    def request(self, http: "httpx.Client | httpx.AsyncClient") -> httpx.Request:
        """The request as httpx sends it; parameters that are None stay out."""
        params = {name: value for name, value in self.params.items() if value is not None}
        body = dict(self.body)
        headers = {"Accept": self.accept, **body.pop("headers", {})}
        return http.build_request(self.method, self.path, params=params, headers=headers, **body)

    def result(self, response: httpx.Response) -> T:
        """The answer's value; raises `Problem`."""
        if not response.is_success:
            raise Problem(response)
        return self.read(response)


def encode(images: Images, **params: Any) -> Question[Encoded]:
    """POST /encode."""
    return Question("POST", "/encode", _encoded, params=params, body=_images_body(images))


def decode(latents: np.ndarray | Encoded) -> Question[np.ndarray]:
    """POST /decode; draws go as L * N latents, since /decode takes an array with one more dimension for an `Encoded`.

    Raises `ValueError` for what is neither latents nor draws: a latent is (D,) or (Cz, h, w).
    """
    array = np.asarray(latents.mean if isinstance(latents, Encoded) else latents, np.float32)
    if not 2 <= array.ndim <= 5:
        raise ValueError(f"latents: expected an array [N, *latent] or [L, N, *latent], got {list(array.shape)}")
    lead = array.shape[: 1 + array.ndim % 2]
    body = _npy_body(array.reshape(math.prod(lead), *array.shape[len(lead) :]))
    return Question("POST", "/decode", lambda response: _arranged(_array(response), lead), body=body)


def reconstruct(images: Images, **params: Any) -> Question[np.ndarray]:
    """POST /reconstruct."""
    return Question("POST", "/reconstruct", _array, params=params, body=_images_body(images))


def sample(n: int, **params: Any) -> Question[Sampled]:
    """GET /sample."""
    return Question("GET", "/sample", _sampled, params={"n": n, **params})


def score(images: Images, **params: Any) -> Question[Scored]:
    """POST /score."""
    return Question("POST", "/score", _scored, "application/json", params, _images_body(images))


def model() -> Question[dict[str, Any]]:
    """GET /model."""
    return Question("GET", "/model", lambda response: dict(response.json()), "application/json")


def history() -> Question[dict[str, Any]]:
    """GET /model/history."""
    return Question("GET", "/model/history", lambda response: dict(response.json()), "application/json")


def _npy_body(array: np.ndarray) -> dict[str, Any]:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return {"content": stream.getvalue(), "headers": {"Content-Type": _NPY}}


def _images_body(images: Images) -> dict[str, Any]:
    if isinstance(images, np.ndarray):
        return _npy_body(images)
    several = [images] if isinstance(images, File) else list(images)
    if not several:
        raise ValueError("images: expected at least one")
    arrays = [image for image in several if isinstance(image, np.ndarray)]
    files = [image for image in several if not isinstance(image, np.ndarray)]
    if arrays and files:
        raise ValueError("images: expected arrays alone, or paths and bytes alone, got both")
    return _npy_body(_stacked(arrays)) if arrays else _files_body(files)


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


def _arranged(images: np.ndarray, lead: tuple[int, ...]) -> np.ndarray:
    return images.reshape(*lead, *images.shape[1:])


def _encoded(response: httpx.Response) -> Encoded:
    mean, logvar, *_ = table = _array(response)
    seed = response.headers.get("x-seed")
    return Encoded(mean, logvar, table[2:], int(seed) if seed else None)


def _sampled(response: httpx.Response) -> Sampled:
    return Sampled(_array(response), int(response.headers["x-seed"]))


def _scored(response: httpx.Response) -> Scored:
    scores = response.json()["scores"]
    columns: dict[str, Any] = {name: np.array([score[name] for score in scores]) for name in scores[0]}
    return Scored(**{"percentile": None, "log_likelihood": None, **columns}, seed=int(response.headers["x-seed"]))
