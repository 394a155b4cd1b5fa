"""Images as uint8 arrays [N, C, H, W]: the record of a data set, and the .npy and .npz files that hold one."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.format import MAGIC_PREFIX, open_memmap
from numpy.typing import NDArray

Images = NDArray[np.uint8]

AT_ONCE = 2**20
"""Pixel values in a batch of large images: as float32 they take 4 MiB, and the networks' feature maps a multiple."""


class DataError(ValueError):
    """A data set that cannot be used; the message names the file, what was expected and what came."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """The images of each split, [N, C, H, W] grey levels; `source` says in a word or two what they are."""

    source: str
    train: Images
    test: Images | None = None

    def __post_init__(self) -> None:
        if self.test is not None and self.test.shape[1:] != self.train.shape[1:]:
            shapes = f"{self.train.shape[1:]} to train on, {self.test.shape[1:]} to test on"
            raise DataError(f"{self.source}: expected images of one shape, got {shapes}")

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return self.train.shape[1:]

    @property
    def held_out(self) -> Images:
        """The test images; all images where none are kept for testing."""
        return self.train if self.test is None else self.test

    def describe(self) -> dict[str, Any]:
        """What was trained on, as JSON holds it: counts, shape and the digest of the images."""
        test = 0 if self.test is None else len(self.test)
        shape = list(self.image_shape)
        return {
            "source": self.source,
            "train": len(self.train),
            "test": test,
            "shape": shape,
            "digest": digest(self.train),
        }


def digest(images: Images) -> str:
    """SHA-256 of shape and grey levels."""
    found = hashlib.sha256(repr(images.shape).encode())
    for batch in batches(images):
        found.update(np.ascontiguousarray(batch).tobytes())
    return found.hexdigest()


def batch_size(dimensions: int, most: int = 200) -> int:
    """The images of so many values each that go through the networks at once: `most` small ones, few large ones."""
    return min(most, max(1, AT_ONCE // dimensions))


def batches(images: Images) -> Iterator[Images]:
    """The images [N, C, H, W] in order, `batch_size` of them at a time; views, no copies."""
    size = batch_size(max(1, prod(images.shape[1:])))
    return (images[start : start + size] for start in range(0, len(images), size))


def read_arrays(path: Path) -> Dataset:
    """The images of a .npy file, or of a .npz file with `train` and perhaps `test`, or with one array alone."""
    loaded = _load(path)
    if isinstance(loaded, np.ndarray):
        return Dataset("npy array", as_images(loaded, str(path)))
    names = sorted(loaded)
    train = "train" if "train" in names else names[0] if len(names) == 1 else None
    if train is None:
        raise DataError(f"{path}: expected `train` (and perhaps `test`), or one array alone, got {names}")
    test = as_images(loaded["test"], f"{path}: test") if "test" in names and train != "test" else None
    return Dataset("npz array", as_images(loaded[train], f"{path}: {train}"), test)


def as_images(array: NDArray[Any], where: str) -> Images:
    """[N, C, H, W] from uint8 [N, H, W] or [N, H, W, C]."""
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
        with path.open("rb") as file:
            alone = file.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX
            file.seek(0)
            return _array(path) if alone else _members(file)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # noqa: BLE001  # numpy's parsers raise whatever a broken file leads them to
        why, *_ = str(error).splitlines() or [type(error).__name__]
        raise DataError(f"{path}: not a complete .npy or .npz array: {why}") from None


def _array(path: Path) -> NDArray[Any]:
    # Mapped, so that what the header promises is held against the file before there is memory for it.
    with np.errstate(over="raise"):  # else a promise of more than 64 bits wraps around
        mapped = open_memmap(path, mode="r")
    promised, size = mapped.offset + mapped.nbytes, path.stat().st_size
    if promised != size:
        raise ValueError(f"expected {promised} bytes, got {size}")
    return np.array(mapped)


def _members(file: BinaryIO) -> dict[str, NDArray[Any]]:
    with np.load(file, allow_pickle=False) as archive:
        if damaged := archive.zip.testzip():  # of each member numpy reads no more than its header promises
            raise ValueError(f"{damaged} is damaged")
        members = dict(archive)
    if others := [name for name, member in members.items() if not isinstance(member, np.ndarray)]:
        raise ValueError(f"{others[0]} is no array")
    return members
