"""MNIST as published: two IDX files of 28x28 grey images, read, checked and downloaded (LeCun, Cortes and Burges)."""

import gzip
import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np

from model.checkpoint import write_atomically
from model.data.arrays import DataError, Dataset, Images

TRAIN, TEST = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte"
MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
DIGESTS = {
    TRAIN: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    TEST: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
}
"""SHA-256 of each file once decompressed, so that it does not matter who compressed it."""

MAGIC = 2051
PIECE = 2**18
LARGEST = 2**26


class Downloaded(NamedTuple):
    """How far the download of one file is, in bytes; `size` is 0 where the server does not tell it."""

    name: str
    done: int
    size: int


def find_mnist(folder: Path) -> bool:
    """Whether one of the published files lies here."""
    return any(_path(folder, name).exists() for name in (TRAIN, TEST))


def read_mnist(folder: Path) -> Dataset:
    """The training images and, where its file lies beside, the test images; these alone are enough to score."""
    train, test = _path(folder, TRAIN), _path(folder, TEST)
    held_out = read_idx(test) if test.exists() else None
    return Dataset("MNIST", read_idx(train) if train.exists() or held_out is None else held_out[:0], held_out)


def read_idx(path: Path) -> Images:
    """The images [N, 1, H, W] of one IDX file, gzipped or not."""
    content = _content(path)
    if len(content) < 16:
        raise DataError(f"{path}: expected a header of 16 bytes, got {len(content)}")
    magic, count, height, width = struct.unpack(">IIII", content[:16])
    if magic != MAGIC:
        raise DataError(f"{path}: expected the magic number {MAGIC} of IDX images, got {magic}")
    if len(content) - 16 != count * height * width or not count * height * width:
        raise DataError(f"{path}: expected {count} images of {height}x{width} bytes, got {len(content) - 16} bytes")
    return np.frombuffer(content, np.uint8, offset=16).reshape(count, 1, height, width)


def download_mnist(
    folder: Path,
    base: str = MIRROR,
    digests: Mapping[str, str] = DIGESTS,
    watch: Callable[[Downloaded], None] | None = None,
) -> None:
    """Put into `folder` each of the two files that is not there yet; only whole and right files ever appear."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (TRAIN, TEST):
        if not _path(folder, name).exists():
            content = _fetch(base.rstrip("/") + f"/{name}.gz", watch or (lambda _: None))
            _require_published(name, content, digests[name])
            write_atomically(folder / f"{name}.gz", content)


def _path(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.gz"


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not a complete gzip file: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


def _fetch(url: str, watch: Callable[[Downloaded], None]) -> bytes:
    address = urlsplit(url)
    if address.scheme != "https" and (address.scheme, address.hostname) != ("http", "127.0.0.1"):
        raise DataError(f"{url}: expected an https address, got {address.scheme or 'none'}")
    try:
        return b"".join(_pieces(url, watch))
    except (OSError, HTTPException) as error:
        raise DataError(f"{url}: could not be downloaded: {error}") from None


def _pieces(url: str, watch: Callable[[Downloaded], None]) -> Iterator[bytes]:
    done = 0
    with urlopen(url, timeout=60) as answer:  # noqa: S310  # the scheme was checked
        size = int(answer.headers.get("Content-Length") or 0)
        while piece := answer.read(PIECE):
            done += len(piece)
            if done > LARGEST:
                raise DataError(f"{url}: expected at most {LARGEST} bytes, got more")
            watch(Downloaded(url.rsplit("/", 1)[-1], done, size))
            yield piece


def _require_published(name: str, content: bytes, expected: str) -> None:
    try:
        found = hashlib.sha256(gzip.decompress(content)).hexdigest()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name}.gz: the download is not a complete gzip file: {error}") from None
    if found != expected:
        raise DataError(f"{name}.gz: expected the published file with SHA-256 {expected}, got {found}")
