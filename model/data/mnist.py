"""MNIST data set (LeCun, Cortes and Burges): reading and downloading the published IDX files of 28x28 images."""

import gzip
import hashlib
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np

from model.data.arrays import DataError, Dataset, Images
from model.errors import reporting_file
from model.files import open_regular, write_atomically

TRAIN, TEST = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte"
MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
DIGESTS = {
    TRAIN: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    TEST: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
}
"""SHA-256 of each decompressed file, which is independent of the compression."""

IDX_IMAGE_MAGIC = 2051
HEADER_BYTES = 16
GZIP_MAGIC = b"\x1f\x8b"

MAX_COMPRESSION = 1032
"""Most bytes into which deflate can decompress one byte."""

DOWNLOAD_CHUNK = 2**18
MAX_DOWNLOAD = 2**26
DOWNLOAD_TIMEOUT = 60


class Downloaded(NamedTuple):
    """Progress of the download of one file in bytes; `size` is 0 if the server does not send it."""

    name: str
    done: int
    size: int


def find_mnist(folder: Path) -> bool:
    """Return whether the folder has one of the published files."""
    return any(_path(folder, name).exists() for name in (TRAIN, TEST))


def read_mnist(folder: Path) -> Dataset:
    """Read the training split and, if its file exists, the test split; the test split alone is enough to evaluate."""
    train, test = _path(folder, TRAIN), _path(folder, TEST)
    held_out = read_idx(test) if test.exists() else None
    return Dataset("MNIST", read_idx(train) if train.exists() or held_out is None else held_out[:0], held_out)


def read_idx(path: Path, most: int = sys.maxsize) -> Images:
    """Read the images of an IDX file, compressed by gzip or not, as uint8 [N, 1, H, W].

    Raises `DataError`, also for images of more than `most` bytes.
    """
    try:
        with open_regular(path, DataError) as (file, size):
            is_compressed = file.read(2) == GZIP_MAGIC
            file.seek(0)
            if not is_compressed:
                return _read_images(path, file, size, most)
            with gzip.GzipFile(fileobj=file) as decompressed:
                return _read_images(path, decompressed, size * MAX_COMPRESSION, most)
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a complete gzip file: {error}") from None


def _read_images(path: Path, file: BinaryIO | gzip.GzipFile, limit: int, most: int) -> Images:
    """Read a header, and as many bytes as it states; the file has at most `limit` bytes."""
    header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        raise DataError(f"{path}: expected a header of {HEADER_BYTES} bytes, got {len(header)}")
    magic, count, height, width = struct.unpack(">IIII", header)
    if magic != IDX_IMAGE_MAGIC:
        raise DataError(f"{path}: expected the magic number {IDX_IMAGE_MAGIC} of IDX images, got {magic}")
    expected = count * height * width
    if not expected:
        raise DataError(f"{path}: expected at least one image, got {count} of {height}x{width} pixels")
    if (read := min(expected, limit)) > most:
        raise DataError(f"{path}: expected at most {most} bytes of images, got {read}")
    content = file.read(read)
    if len(content) < expected or file.read(1):
        got = f"{len(content)} bytes" if len(content) < expected else f"more than {expected} bytes"
        raise DataError(f"{path}: expected {count} images of {height}x{width} bytes, got {got}")
    return np.frombuffer(content, np.uint8).reshape(count, 1, height, width)


def download_mnist(
    folder: Path,
    base: str = MIRROR,
    digests: Mapping[str, str] = DIGESTS,
    progress: Callable[[Downloaded], None] | None = None,
) -> None:
    """Download the files that `folder` lacks. Raises `DataError`.

    A file is written after its digest has been checked, in one step. `progress` is called for each chunk.
    """
    with reporting_file(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name in (TRAIN, TEST):
        if not _path(folder, name).exists():
            content = _fetch(base.rstrip("/") + f"/{name}.gz", progress or (lambda _: None))
            _check_digest(name, content, digests[name])
            write_atomically(folder / f"{name}.gz", content)


def _path(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.gz"


def _fetch(url: str, progress: Callable[[Downloaded], None]) -> bytes:
    address = urlsplit(url)
    if address.scheme != "https" and (address.scheme, address.hostname) != ("http", "127.0.0.1"):
        raise DataError(f"{url}: expected an https address, got {address.scheme or 'none'}")
    try:
        return b"".join(_read_chunks(url, progress))
    except (OSError, HTTPException) as error:
        raise DataError(f"{url}: download failed: {error}") from None


def _read_chunks(url: str, progress: Callable[[Downloaded], None]) -> Iterator[bytes]:
    done = 0
    with urlopen(url, timeout=DOWNLOAD_TIMEOUT) as response:  # noqa: S310  # the scheme was checked
        size = int(response.headers.get("Content-Length") or 0)
        while chunk := response.read(DOWNLOAD_CHUNK):
            done += len(chunk)
            if done > MAX_DOWNLOAD:
                raise DataError(f"{url}: expected at most {MAX_DOWNLOAD} bytes, got more")
            progress(Downloaded(url.rsplit("/", 1)[-1], done, size))
            yield chunk


def _check_digest(name: str, content: bytes, expected: str) -> None:
    try:
        found = hashlib.sha256(gzip.decompress(content)).hexdigest()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name}.gz: the download is not a complete gzip file: {error}") from None
    if found != expected:
        raise DataError(f"{name}.gz: expected the published file with SHA-256 {expected}, got {found}")
