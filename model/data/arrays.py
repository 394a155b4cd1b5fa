"""Data sets of images as uint8 arrays [N, C, H, W], and reading them from .npy and .npz files."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.lib.format import MAGIC_PREFIX, open_memmap
from numpy.typing import NDArray

from model.errors import UserError
from model.files import open_regular

Images = NDArray[np.uint8]

MAX_PIXELS_PER_PASS = 2**20
"""Largest number of pixel values in a batch of large images: 4 MiB as float32, and several times that in features."""


MAX_ID_BYTES = 4096
"""Bytes of the id of an image, its path, as Linux limits them; a character has at most 4."""


MAX_NPY_HEADER = 10_000
"""Bytes of the header of a .npy array. numpy has the same limit, but reads a header of any length before."""


class DataError(UserError):
    """Data set that cannot be used; the message names the file, what was expected and what came."""


class Outline(NamedTuple):
    """What is known of a data set before all of its images are read.

    `image_shape` is (C, H, W), with one channel where no colour was found yet. `images` is the largest possible number
    of training images.
    """

    image_shape: tuple[int, ...]
    images: int
    has_validation: bool


CheckOutline = Callable[[Outline], None]
"""Raises an error for a data set that cannot be used."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Splits of a data set, uint8 [N, C, H, W] each; `source` names where the images are from.

    `labels` are the classes of the training images, empty without classes. `skipped` names each file that could not be
    read, with the reason. `shape_reason` says how the shape of the images was chosen, empty if it was given.
    """

    source: str
    train: Images
    test: Images | None = None
    validation: Images | None = None
    labels: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    shape_reason: str = ""

    def __post_init__(self) -> None:
        for name, split in (("test", self.test), ("validation", self.validation)):
            if split is not None and split.shape[1:] != self.train.shape[1:]:
                shapes = f"{self.train.shape[1:]} in the training split and {split.shape[1:]} in the {name} split"
                raise DataError(f"{self.source}: expected images of one shape, got {shapes}")

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape (C, H, W) of each image."""
        return self.train.shape[1:]

    @property
    def held_out(self) -> Images:
        """The test split, or all images if there is none."""
        return self.train if self.test is None else self.test

    @property
    def outline(self) -> Outline:
        """Shape and number of the training images, and whether there are others for validation."""
        return Outline(self.image_shape, len(self.train), self.validation is not None)

    def describe(self) -> dict[str, Any]:
        """Return source, numbers of images, shape and digest of the training split as a JSON object."""
        return {
            "source": self.source,
            "train": len(self.train),
            "validation": 0 if self.validation is None else len(self.validation),
            "test": 0 if self.test is None else len(self.test),
            "shape": list(self.image_shape),
            "classes": dict(Counter(self.labels)),
            "skipped": len(self.skipped),
            "digest": digest(self.train),
        }


def digest(images: Images) -> str:
    """Return the SHA-256 of the shape and grey levels of images, in hexadecimal."""
    found = hashlib.sha256(repr(images.shape).encode())
    for batch in batches(images):
        found.update(np.ascontiguousarray(batch).tobytes())
    return found.hexdigest()


def batch_size(dimensions: int, limit: int = 200) -> int:
    """Return the batch size for images of `dimensions` values each: `limit` for small images, fewer for large ones."""
    return min(limit, max(1, MAX_PIXELS_PER_PASS // dimensions))


def batches(images: Images) -> Iterator[Images]:
    """Split images [N, C, H, W] into batches of `batch_size` in order, as views."""
    size = batch_size(max(1, prod(images.shape[1:])))
    return (images[start : start + size] for start in range(0, len(images), size))


def read_arrays(path: Path) -> Dataset:
    """Read a .npy file, or a .npz file with `train` and optionally `val` and `test`, or with a single array.

    Raises `DataError`.
    """
    loaded = _load(path)
    if isinstance(loaded, np.ndarray):
        return Dataset("npy array", as_images(loaded, str(path)))
    names = sorted(loaded)
    train = "train" if "train" in names else names[0] if len(names) == 1 else None
    if train is None:
        raise DataError(f"{path}: expected `train` (and optionally `test`) or a single array, got {names}")
    test, validation = (
        as_images(loaded[name], f"{path}: {name}") if name in names and train != name else None
        for name in ("test", "val")
    )
    return Dataset("npz array", as_images(loaded[train], f"{path}: {train}"), test, validation)


def as_images(array: NDArray[Any], where: str) -> Images:
    """Convert uint8 [N, H, W] or [N, H, W, C] to contiguous [N, C, H, W]; `where` begins an error message."""
    if array.dtype != np.uint8:
        raise DataError(f"{where}: expected uint8 grey levels, got {array.dtype}")
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in (1, 3)):
        raise DataError(f"{where}: expected [N, H, W] or [N, H, W, C] with C of 1 or 3, got {list(array.shape)}")
    if array.size == 0:
        raise DataError(f"{where}: expected at least one image, got {list(array.shape)}")
    channels_last = array[..., np.newaxis] if array.ndim == 3 else array
    return np.ascontiguousarray(channels_last.transpose(0, 3, 1, 2))


def _load(path: Path) -> NDArray[Any] | dict[str, NDArray[Any]]:
    try:
        with open_regular(path, DataError) as (file, _):
            is_npy = file.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX
            file.seek(0)
            return np.array(map_npy(path)) if is_npy else _read_npz(file)
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001  # numpy's parsers raise many types of exceptions
        why, *_ = str(error).splitlines() or [type(error).__name__]
        raise DataError(f"{path}: not a complete .npy or .npz array: {why}") from None


def map_npy(path: Path) -> NDArray[Any]:
    """Map a .npy file into memory, so that its size is checked before memory is allocated for the array.

    Raises `ValueError` for a file of another size than its header states, and many other exceptions for other files.
    """
    with path.open("rb") as file:
        require_short_header(file)
    with np.errstate(over="raise"):  # else a size of more than 64 bits wraps around
        mapped = open_memmap(path, mode="r")
    expected, size = mapped.offset + mapped.nbytes, path.stat().st_size
    if expected != size:
        raise ValueError(f"expected {expected} bytes, got {size}")
    return mapped


def require_short_header(file: IO[bytes]) -> None:
    """Raise `ValueError` for a .npy array whose header is longer than `MAX_NPY_HEADER`; it is not read.

    The file is then at its start. One of another format raises nothing.
    """
    start = file.read(12)
    length = int.from_bytes(start[8:10] if start[6:7] == b"\1" else start[8:], "little")
    if start.startswith(MAGIC_PREFIX) and length > MAX_NPY_HEADER:
        raise ValueError(f"expected a header of at most {MAX_NPY_HEADER} bytes, got {length}")
    file.seek(0)


def _read_npz(file: BinaryIO) -> dict[str, NDArray[Any]]:
    with np.load(file, allow_pickle=False) as archive:
        for name in archive.zip.namelist():
            with archive.zip.open(name) as member:
                require_short_header(member)
        if damaged := archive.zip.testzip():  # numpy does not notice data after the end of an array
            raise ValueError(f"{damaged} is damaged")
        members = dict(archive)
    if others := [name for name, member in members.items() if not isinstance(member, np.ndarray)]:
        raise ValueError(f"{others[0]} is not an array")
    return members
