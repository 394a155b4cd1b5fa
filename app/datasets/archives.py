"""Images in one file: arrays, MNIST files, and archives. All places are read by several threads at once."""

import os
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from math import prod
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.lib.format import read_array, read_array_header_1_0, read_array_header_2_0, read_magic

from app.datasets.entries import ArrayRow, Entry, entry_of, is_image, note, parsing, require_size, valid_text
from app.inference.memory import available
from model.data.arrays import DataError, map_npy, require_short_header
from model.data.mnist import TEST, TRAIN
from model.files import open_regular

_PIXEL_TYPES = ("uint8", "float16", "float32", "float64")
_IDX_MAGIC = b"\0\0\x08\x03"

MAX_NAMED, MAX_NAME = 5, 200
"""Members of an archive that a message names, and characters of each."""


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
        _require_bounded(self.info)
        with self.archive.open(self.info) as file:
            return file.read(self.info.file_size)  # without a size 2 GiB are decompressed if the stated size is false


class _OpenFile:
    """A file that stays open while one of its members may be read."""

    def __init__(self, file: BinaryIO) -> None:
        self.descriptor = os.dup(file.fileno())

    def __del__(self) -> None:
        os.close(self.descriptor)


class ArraySource(NamedTuple):
    """The rows of arrays by their names, with the time of their file."""

    arrays: Sequence[tuple[str, np.ndarray]]
    modified: int

    def entries(self) -> Iterator[Entry]:
        """List the rows."""
        for name, array in self.arrays:
            size, folder = array[:1].nbytes, valid_text(name)
            for row in range(len(array)):
                yield Entry(f"{folder}/{row}", size, self.modified, ArrayRow(array, row))


class _Names:
    """The names of the members of an archive: the first member of each name counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: set[str] = set()
        self._repeated: list[str] = []

    def new(self, name: str) -> str:
        """Return a name without `./` in front, or "" if a member before has it."""
        own = name.removeprefix("./")
        if own in self._seen:
            self._repeated.append(own)
            return ""
        self._seen.add(own)
        return own

    def report(self) -> None:
        """Say which members were left out."""
        if self._repeated:
            note(f"{self._path}: left out members with the name of an earlier one: {_few(self._repeated)}")


class TarSource(NamedTuple):
    """The images in a tar archive, such as a shard of a webdataset, in its order. A name counts once."""

    path: Path
    name: str

    def entries(self) -> Iterator[Entry]:
        """List the images. Raises `DataError` for a file that is no archive, a damaged or a compressed one."""
        names = _Names(self.path)
        with (
            parsing(self.path, "expected a whole tar archive that is not compressed"),
            open_regular(self.path, DataError) as (opened, _),
            tarfile.open(fileobj=opened, mode="r:", encoding="utf-8", errors="surrogateescape") as archive,
        ):
            file = _OpenFile(opened)
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # else all headers stay in memory
                if member.size < 0:  # would lead back to a header before, for ever
                    raise tarfile.ReadError(f"{member.name} has {member.size} bytes")
                if not member.isreg() or member.issparse() or not is_image(member.name):
                    continue
                if name := names.new(member.name):
                    place = TarPlace(file, member.offset_data, member.size)
                    yield entry_of(f"{self.name}/{name}", member.size, member.mtime * 10**9, place)
            opened.seek(archive.offset)
            if any(opened.read(tarfile.BLOCKSIZE)):  # tarfile takes a damaged or truncated header for the end
                raise tarfile.ReadError(f"invalid header at byte {archive.offset}")
        names.report()


class ZipSource(NamedTuple):
    """The images in a zip archive, in its order. A name counts once."""

    path: Path
    name: str

    def entries(self) -> Iterator[Entry]:
        """List the images. Raises `DataError` for a file that is no archive."""
        with parsing(self.path, "expected a zip archive"), open_regular(self.path, DataError):
            archive = zipfile.ZipFile(self.path)
        names = _Names(self.path)
        members = (info for info in archive.infolist() if not info.is_dir() and is_image(info.filename))
        with parsing(self.path, "expected a zip archive of images"):
            for info in members:
                if name := names.new(info.filename):
                    yield entry_of(f"{self.name}/{name}", info.file_size, _zip_time(info), ZipPlace(archive, info))
        names.report()


def is_idx(path: Path) -> bool:
    """Return whether a file has images in the format of MNIST, by its name or its first bytes."""
    if path.name in (TRAIN, TEST, f"{TRAIN}.gz", f"{TEST}.gz"):
        return True
    with open_regular(path, DataError) as (file, _):
        return file.read(len(_IDX_MAGIC)) == _IDX_MAGIC


def npy_source(path: Path, name: str) -> ArraySource:
    """Return the images of a .npy file, mapped into memory. Raises `DataError` for another file or array."""
    with parsing(path, "not a complete .npy array"), open_regular(path, DataError):
        array = map_npy(path)
    if reason := _refused(array.dtype, array.shape):
        raise DataError(f"{path}: {reason}")
    return ArraySource([(name, array)], path.stat().st_mtime_ns)


def npz_source(path: Path, name: str) -> ArraySource:
    """Return the arrays of images in a .npz file; other arrays, such as labels, are left out with a warning."""
    with parsing(path, "not a complete .npz file"), open_regular(path, DataError), zipfile.ZipFile(path) as archive:
        found = {info.filename: _read_member(archive, info) for info in archive.infolist()}
    images = [
        (f"{name}/{member.removesuffix('.npy')}", array)
        for member, array in found.items()
        if isinstance(array, np.ndarray)
    ]
    others = [f"{member.removesuffix('.npy')}: {reason}" for member, reason in found.items() if isinstance(reason, str)]
    if not images:
        raise DataError(f"{path}: {_few(others) or 'expected an array of images, got none'}")
    if others:
        note(f"{path}: left out what holds no images: {_few(others)}")
    return ArraySource(images, path.stat().st_mtime_ns)


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray | str:
    """Return an array of images in a .npz file, or why it is none.

    Raises `ValueError` for an array that has another size than the archive states, or does not fit into memory.
    """
    if not info.filename.endswith(".npy"):
        return "expected a .npy array"
    _require_bounded(info)
    with archive.open(info) as file:
        require_short_header(file)
        shape, _, dtype = (read_array_header_1_0 if read_magic(file) == (1, 0) else read_array_header_2_0)(file)
        if reason := _refused(dtype, shape):
            return reason
        size, stated = prod(shape) * dtype.itemsize, info.file_size - file.tell()
        if size != stated:
            raise ValueError(f"{info.filename}: expected {size} bytes, got {stated}")
        if size > (free := available()):
            raise ValueError(f"{info.filename}: expected at most the {free} bytes of free memory, got {size}")
        file.seek(0)
        return read_array(file, allow_pickle=False)


def _refused(dtype: np.dtype, shape: Sequence[int]) -> str:
    """Return why an array is none of images, or ""."""
    channels = shape[3] if len(shape) == 4 else 1
    if dtype.name in _PIXEL_TYPES and len(shape) in (3, 4) and channels in (1, 3) and min(shape) > 0:
        return ""
    expected = "uint8, or floats in [0, 1], [N, H, W] or [N, H, W, C] with C of 1 or 3"
    return f"expected {expected}, got {dtype} {list(shape)}"


def _few(names: Sequence[str]) -> str:
    """Return the first names of some, and the number of the others."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{'; '.join(name[:MAX_NAME] for name in names[:MAX_NAMED])}{more}"


def _require_bounded(info: zipfile.ZipInfo) -> None:
    """Raise `ValueError` for a member whose method decompresses it without a limit."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        got = zipfile.compressor_names.get(info.compress_type, f"method {info.compress_type}")  # type: ignore[attr-defined]
        raise ValueError(f"expected a stored or deflated member, got {got}")


def _zip_time(info: zipfile.ZipInfo) -> int:
    """Return the time of a member, which has no time zone; 0 for a date that does not exist."""
    try:
        return int(datetime(*info.date_time, tzinfo=UTC).timestamp()) * 10**9
    except ValueError:
        return 0
