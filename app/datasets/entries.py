"""Entries of a source: an image, its id and time, and the place from which it is read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

import numpy as np

from model.data.arrays import MAX_ID_BYTES, DataError
from model.errors import UserError

_READ = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif")
IMAGE_SUFFIXES = (*_READ, ".heic", ".heif")
"""Files that count as images. HEIC is not read, and reported as unreadable."""

MAX_FILE_BYTES = 2**30
"""Bytes of one image file; a larger one is recorded as unreadable."""


class Place(Protocol):
    """Where the content of one image lies."""

    def read(self) -> bytes:
        """Return the image file. Raises any exception for one that is damaged. May be called in any thread."""


class Entry(NamedTuple):
    """An image of a source: its id, the bytes of its file, its time in nanoseconds since 1970, and its place."""

    id: str
    size: int
    modified: int
    place: "Place | ArrayRow"


class Source(Protocol):
    """Images in a fixed order."""

    def entries(self) -> Iterator[Entry]:
        """List the images. Raises `DataError` where the source itself cannot be read."""


class ArrayRow(NamedTuple):
    """A row of an array of images, [N, H, W] or [N, H, W, C]."""

    array: np.ndarray
    row: int


@contextmanager
def parsing(path: Path, expected: str) -> Iterator[None]:
    """Raise a `DataError` that names a file for any exception of a parser; those of archives raise many types."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001
        raise DataError(f"{path}: {expected}: {reason_of(error)}") from None


def reason_of(error: Exception) -> str:
    """Return the first line of what an exception says, or its type."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def int64(number: float) -> int:
    """Return a number as an integer that the index can hold; 0 for one of more than 64 bits, or not finite."""
    return int(number) if abs(number) < 2**63 else 0  # a comparison with NaN is false


def require_size(size: int) -> None:
    """Raise `ValueError` for a file of more than `MAX_FILE_BYTES`."""
    if size > MAX_FILE_BYTES:
        raise ValueError(f"expected at most {MAX_FILE_BYTES} bytes, got {size}")


def is_image(name: str) -> bool:
    """Return whether a name is that of an image file."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES and not PurePosixPath(name).name.startswith(".")


def valid_text(name: str) -> str:
    """Return a name as valid Unicode: bytes that are no UTF-8 become backslash escapes.

    Raises `ValueError` for a name that no index can hold: one that names no file, such as `..`, or a longer one.
    """
    text = name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if not text.strip("./\\") or (len(text) > MAX_ID_BYTES // 4 and len(text.encode()) > MAX_ID_BYTES):
        raise ValueError(f"expected the path of an image, got {text!r:.40}")
    return text
