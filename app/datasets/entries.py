"""Entries of a source: an image, its id and time, and the place from which it is read."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

import numpy as np

from model.data.arrays import MAX_ID_BYTES, DataError
from model.errors import UserError

log = logging.getLogger(__name__)

_READ = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif")
IMAGE_SUFFIXES = (*_READ, ".heic", ".heif")
"""Files that count as images. HEIC is not read, and reported as unreadable."""

MAX_FILE_BYTES = 2**30
"""Bytes of one image file; a larger one is recorded as unreadable."""

SHOWN_CHARACTERS = 80
"""Characters of a name that no index can hold with which the id of its entry begins."""

_ESCAPED = re.compile(r"[\udc80-\udcff]|\\x[89a-f][0-9a-f]")
"""A byte that is no UTF-8, as Python has it in a file name, or text that looks like the escape of one."""


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


class UnreadablePlace(NamedTuple):
    """An archive or array that is damaged, or another file without images, with the reason."""

    reason: str

    def read(self) -> bytes:
        """Raise `DataError` with the reason."""
        raise DataError(self.reason)


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
    return _decoded(next(iter(str(error).splitlines()), "") or type(error).__name__)


def int64(number: float) -> int:
    """Return a number as an integer that the index can hold; 0 for one of more than 64 bits, or not finite."""
    return int(number) if abs(number) < 2**63 else 0  # a comparison with NaN is false


def require_size(size: int) -> None:
    """Raise `ValueError` for a file of more than `MAX_FILE_BYTES`."""
    if size > MAX_FILE_BYTES:
        raise ValueError(f"expected at most {MAX_FILE_BYTES} bytes, got {size}")


def without_scheme(location: str) -> str:
    """Return the path of a URL of a local file, as fsspec reads it: the code for paths takes any name of a file."""
    return location.removeprefix("file://").removeprefix("local://")


def is_image(name: str) -> bool:
    """Return whether a name is that of an image file."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES and not PurePosixPath(name).name.startswith(".")


def entry_of(name: str, size: int, modified: float, place: Place) -> Entry:
    """Return the entry of an image by its name, which becomes its id.

    A name that no index can hold, one that names no file, such as `..`, or a very long one, cannot be read. Its id is
    shortened.
    """
    text = valid_text(name)
    if text.strip("./\\") and (len(text) <= MAX_ID_BYTES // 4 or len(text.encode()) <= MAX_ID_BYTES):
        return Entry(text, int64(size), int64(modified), place)
    shown = text[:SHOWN_CHARACTERS]
    own = text if text == shown else f"{shown}...{sha256(text.encode()).hexdigest()[:16]}"
    expected = f"expected the path of an image, of at most {MAX_ID_BYTES} bytes"
    return Entry(own, int64(size), int64(modified), UnreadablePlace(f"{expected}, got {shown!r}"))


def valid_text(name: str) -> str:
    r"""Return a name as valid Unicode: a byte that is no UTF-8 becomes an escape such as `\xff`.

    No two names become one: the backslashes of a name with such a byte, or with text that looks like its escape, are
    doubled.
    """
    if "\\" in name and _ESCAPED.search(name):
        name = name.replace("\\", "\\\\")
    return name if name.isascii() else _decoded(name)


def _decoded(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@lru_cache(1024)
def note(text: str) -> None:
    """Log a warning on a source, once: a command lists its source several times."""
    log.warning("%s", _decoded(text))
