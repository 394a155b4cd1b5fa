"""Images in one file: arrays, MNIST files, and archives. All places are read by several threads at once."""

import os
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from app.datasets.entries import ArrayRow, Entry, is_image, require_size, valid_text
from model.data.arrays import DataError
from model.data.mnist import TEST, TRAIN
from model.files import open_regular

_PIXEL_TYPES = ("uint8", "float16", "float32", "float64")
_IDX_MAGIC = b"\0\0\x08\x03"


class TarPlace(NamedTuple):
    """A member of an archive that is not compressed."""

    file: "_OpenFile"
    offset: int
    size: int

    def read(self) -> bytes:
        """Return its bytes."""
        require_size(self.size)
        content = os.pread(self.file.descriptor, self.size, self.offset)
        if len(content) < self.size:
            raise ValueError(f"expected {self.size} bytes in the archive, got {len(content)}")
        return content


class ZipPlace(NamedTuple):
    """A member of a zip archive; the archive lets several threads read."""

    archive: zipfile.ZipFile
    info: zipfile.ZipInfo

    def read(self) -> bytes:
        """Return its bytes."""
        require_size(self.info.file_size)
        try:
            return self.archive.read(self.info)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:  # damaged, or encrypted
            raise ValueError(str(error)) from None


class _OpenFile:
    """A file that stays open while one of its members may be read."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self.descriptor)


class ArraySource(NamedTuple):
    """The rows of arrays by their names, with the time of their file."""

    arrays: Sequence[tuple[str, np.ndarray]]
    modified: int

    def entries(self) -> Iterator[Entry]:
        """List the rows."""
        for name, array in self.arrays:
            size = array[:1].nbytes
            for row in range(len(array)):
                yield Entry(f"{name}/{row}", size, self.modified, ArrayRow(array, row))


class TarSource(NamedTuple):
    """The images in a tar archive, such as a shard of a webdataset, in its order. A name counts once."""

    path: Path
    name: str

    def entries(self) -> Iterator[Entry]:
        """List the images. Raises `DataError` for a file that is no archive, or a compressed one."""
        seen = set()
        try:
            file = _OpenFile(self.path)
            with tarfile.open(self.path, "r:", encoding="utf-8", errors="surrogateescape") as archive:
                for member in archive:
                    archive.members = []  # type: ignore[attr-defined]  # else all headers stay in memory
                    if not member.isreg() or member.issparse() or not is_image(member.name) or member.name in seen:
                        continue
                    seen.add(member.name)
                    place = TarPlace(file, member.offset_data, member.size)
                    name = valid_text(f"{self.name}/{member.name.removeprefix('./')}")
                    yield Entry(name, member.size, int(member.mtime * 10**9), place)
        except (tarfile.TarError, OSError) as error:
            raise DataError(f"{self.path}: expected a tar archive that is not compressed: {error}") from None


class ZipSource(NamedTuple):
    """The images in a zip archive, in its order."""

    path: Path
    name: str

    def entries(self) -> Iterator[Entry]:
        """List the images. Raises `DataError` for a file that is no archive."""
        try:
            archive = zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{self.path}: expected a zip archive: {error}") from None
        members = {info.filename: info for info in archive.infolist() if not info.is_dir() and is_image(info.filename)}
        for name, info in members.items():
            yield Entry(valid_text(f"{self.name}/{name}"), info.file_size, _zip_time(info), ZipPlace(archive, info))


def is_idx(path: Path) -> bool:
    """Return whether a file has images in the format of MNIST, by its name or its first bytes."""
    if path.name in (TRAIN, TEST, f"{TRAIN}.gz", f"{TEST}.gz"):
        return True
    with open_regular(path, DataError) as (file, _):
        return file.read(len(_IDX_MAGIC)) == _IDX_MAGIC


def npy_source(path: Path, name: str) -> ArraySource:
    """Return the images of a .npy file, mapped into memory. Raises `DataError` for another file or array."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a complete .npy array: {str(error).splitlines()[0]}") from None
    if reason := _refused(array):
        raise DataError(f"{path}: {reason}")
    return ArraySource([(name, array)], path.stat().st_mtime_ns)


def npz_source(path: Path, name: str) -> ArraySource:
    """Return the arrays of images in a .npz file; other arrays, such as labels, are left out."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {member: archive[member] for member in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a complete .npz file: {str(error).splitlines()[0]}") from None
    images = [(f"{name}/{member}", array) for member, array in arrays.items() if not _refused(array)]
    if not images:
        reasons = "; ".join(f"{member}: {_refused(array)}" for member, array in arrays.items())
        raise DataError(f"{path}: {reasons or 'expected an array of images, got none'}")
    return ArraySource(images, path.stat().st_mtime_ns)


def _refused(array: np.ndarray) -> str:
    """Return why an array is none of images, or ""."""
    channels = array.shape[3] if array.ndim == 4 else 1
    if array.dtype.name in _PIXEL_TYPES and array.ndim in (3, 4) and channels in (1, 3) and array.size:
        return ""
    expected = "uint8, or floats in [0, 1], [N, H, W] or [N, H, W, C] with C of 1 or 3"
    return f"expected {expected}, got {array.dtype} {list(array.shape)}"


def _zip_time(info: zipfile.ZipInfo) -> int:
    """Return the time of a member, which has no time zone; 0 for a date that does not exist."""
    try:
        return int(datetime(*info.date_time, tzinfo=UTC).timestamp()) * 10**9
    except ValueError:
        return 0
