"""Sources of images: folders, patterns, lists of paths, arrays, MNIST files, archives and object stores.

A source lists its images in a fixed order without reading them, so that it can be compared with an index and read in
parallel. The id of an image is its relative path; one in an archive or array follows the name of that file:
`cats/tom.jpg`, `shard-000.tar/000012.jpg`, `digits.npy/17`.
"""

import glob
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from io import TextIOWrapper
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from app.datasets.archives import ArraySource, TarSource, ZipSource, is_idx, npy_source, npz_source
from app.datasets.entries import (
    IMAGE_SUFFIXES,
    Entry,
    Source,
    UnreadablePlace,
    entry_of,
    is_image,
    parsing,
    require_size,
    without_scheme,
)
from app.inference.memory import available
from model.data.arrays import DataError
from model.data.mnist import TEST, TRAIN, find_mnist, read_idx
from model.errors import reporting_file
from model.files import open_regular

COMPRESSED_TARS = {
    (".tar.gz", ".tgz"): "gunzip",
    (".tar.bz2", ".tbz2"): "bunzip2",
    (".tar.xz", ".txz"): "unxz",
    (".tar.zst", ".tzst"): "unzstd --rm",
}
"""Suffixes of tar archives that are not read, as they are readable only from the start, and what decompresses them."""

ARCHIVE_SUFFIXES = (".tar", ".zip", ".npy", ".npz", *chain.from_iterable(COMPRESSED_TARS))
LIST_SUFFIXES = frozenset({".txt", ".lst"})


class FilePlace(NamedTuple):
    """A file."""

    path: str

    def read(self) -> bytes:
        """Return its bytes."""
        with open_regular(Path(self.path), DataError) as (file, size):
            require_size(size)
            return file.read(size) or b""


class StorePlace(NamedTuple):
    """An object of a file system of fsspec, such as S3."""

    system: Any
    path: str
    size: int

    def read(self) -> bytes:
        """Return its bytes."""
        require_size(self.size)
        content: bytes = self.system.cat_file(self.path)
        return content


class FolderSource(NamedTuple):
    """The image files below a folder, in the order of their names; if it has none, its archives and arrays.

    Names that begin with a dot are left out. Links are followed; a folder that several lead to is
    listed once, under the first of its names.
    """

    folder: Path
    prefix: str = ""

    def entries(self) -> Iterator[Entry]:
        """List the images."""
        for name, path in self.files():
            yield from _entries_of_one(path, name)

    def files(self) -> Iterator[tuple[str, str]]:
        """List the names and paths of the images, or of the archives and arrays."""
        any_image = next(self._files(IMAGE_SUFFIXES), None)
        return self._files(IMAGE_SUFFIXES if any_image else ARCHIVE_SUFFIXES)

    def _files(self, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        return _walk(str(self.folder), self.prefix, suffixes)


class FilesSource(NamedTuple):
    """Files and folders by their names, each file an image, or an archive or array of images. A name counts once."""

    files: Sequence[tuple[str, Path]]

    def entries(self) -> Iterator[Entry]:
        """List the images."""
        seen = set()
        for name, path in self._all_files():
            if name not in seen:
                seen.add(name)
                yield from _entries_of_one(path, name)

    def _all_files(self) -> Iterator[tuple[str, str]]:
        for name, path in self.files:
            if path.is_dir():
                yield from FolderSource(path, f"{name}/").files()
            else:
                yield name, str(path)


class ImageSource(NamedTuple):
    """One image file."""

    name: str
    path: Path

    def entries(self) -> Iterator[Entry]:
        """List the image."""
        yield _file_entry(self.name, str(self.path))


class ListSource(NamedTuple):
    """A text file in UTF-8 with the path of an image in each line, relative to its folder. A path counts once."""

    path: Path

    def entries(self) -> Iterator[Entry]:
        """List the images."""
        seen = set()
        with (
            parsing(self.path, "expected a list of paths"),
            open_regular(self.path, DataError) as (file, _),
            TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape") as lines,
        ):
            for line in lines:
                name = line.rstrip("\r\n")
                if name.strip() and name not in seen:
                    seen.add(name)
                    yield _file_entry(name, str(self.path.parent / name))


class StoreSource(NamedTuple):
    """The image files below a path of an object store, by fsspec: s3://bucket/folder, gs://, memory://."""

    location: str

    def entries(self) -> Iterator[Entry]:
        """List the images. Raises `DataError` where the store cannot be read."""
        import fsspec  # noqa: PLC0415  # slow, and only needed here

        try:
            system, root = fsspec.core.url_to_fs(self.location)
            found = system.find(root, detail=True)
        except (OSError, ImportError, ValueError) as error:
            raise DataError(f"{self.location}: {error}") from None
        for path, info in sorted(found.items()):
            if is_image(path):
                name = os.path.relpath(path, root) if path != root else PurePosixPath(path).name
                size = int(info.get("size") or 0)
                yield entry_of(name, size, _store_time(info), StorePlace(system, path, size))


def open_source(*locations: str | Path) -> Source:
    """Return the source of one or several locations.

    A location is a folder, a pattern such as `shards/*.tar`, a .txt or .lst file with paths, a .npy, .npz, .zip or .tar
    file, MNIST files or their folder, an image file, or a URL of an object store. One that is given twice counts once.
    Raises `DataError` for one that does not exist or has another format.
    """
    texts = list(dict.fromkeys(without_scheme(str(location)) for location in locations))
    if len(texts) == 1 and "://" in texts[0] and len(urlsplit(texts[0]).scheme) > 1:
        return StoreSource(texts[0])
    found = [path for text in texts for path in _expanded(text)]
    paths = _distinct(found)
    if len(paths) == 1 and all(Path(text) == paths[0] for text in texts):
        (path,) = paths
        if path.is_dir():
            return _folder_source(path)
        return _file_source(path, path.name)
    common = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    return FilesSource([(str(path.absolute().relative_to(common)), path) for path in paths])


def require_images(source: Source, locations: Iterable[object]) -> None:
    """Raise `DataError` for a source without images."""
    if next(source.entries(), None) is None:
        where = ", ".join(map(str, locations))
        raise DataError(f"{where}: expected images ({' '.join(sorted(IMAGE_SUFFIXES))}), got none")


def _expanded(text: str) -> list[Path]:
    """Return the paths of a pattern, in order, or the path itself if it exists."""
    path = Path(text)
    if path.exists():
        return [path]
    found = sorted(glob.glob(text, recursive=True)) if glob.has_magic(text) else []  # noqa: PTH207  # absolute as well
    if not found:
        missing = "no file or folder matches this pattern" if glob.has_magic(text) else "no such file or folder"
        raise DataError(f"{text}: {missing}")
    return [Path(name) for name in found]


def _distinct(paths: Iterable[Path]) -> list[Path]:
    """Return paths without repetitions, and each folder under its first name."""
    found: dict[Path, Path] = {}
    for path in paths:
        found.setdefault(path.resolve() if path.is_dir() else path.absolute(), path)
    return [*found.values()]


def _folder_source(folder: Path) -> Source:
    if not find_mnist(folder):
        return FolderSource(folder)
    names = (name for stem in (TRAIN, TEST) for name in (stem, f"{stem}.gz") if (folder / name).exists())
    files = {name.removesuffix(".gz"): folder / name for name in reversed([*names])}  # the file that is not compressed
    return FilesSource([(path.name, path) for _, path in sorted(files.items(), reverse=True)])


def _file_source(path: Path, name: str) -> Source:
    """Return the source of a file by its suffix, or as an image."""
    for suffixes, tool in COMPRESSED_TARS.items():
        if path.name.lower().endswith(suffixes):
            command = f"{tool} {shlex.quote(path.name)}"
            raise DataError(f"{path}: expected a tar archive that is not compressed; decompress it first: {command}")
    suffix = path.suffix.lower()
    openers: dict[str, Callable[[Path, str], Source]] = {
        ".npy": npy_source,
        ".npz": npz_source,
        ".tar": TarSource,
        ".zip": ZipSource,
    }
    if suffix in openers:
        return openers[suffix](path, name)
    if suffix in LIST_SUFFIXES:
        return ListSource(path)
    if suffix not in IMAGE_SUFFIXES and is_idx(path):
        return ArraySource([(name, read_idx(path, available())[:, 0])], path.stat().st_mtime_ns)
    return ImageSource(name, path)


def _entries_of_one(path: str, name: str) -> Iterator[Entry]:
    """List the images of one of several files; one that is damaged has an entry of its own, which cannot be read."""
    if path.lower().endswith(IMAGE_SUFFIXES):
        yield _file_entry(name, path)
        return
    try:
        yield from _file_source(Path(path), name).entries()
    except DataError as error:
        reason = str(error).removeprefix(f"{path}: ")
        yield _file_entry(name, path)._replace(place=UnreadablePlace(reason))


def _walk(folder: str, prefix: str, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """List the files with these suffixes below a folder: id and path. A folder with several names is listed once."""
    visited = set()
    pending = [(prefix, folder, True)]  # the next one last
    while pending:
        name, path, is_folder = pending.pop()
        if not is_folder:
            yield name, path
            continue
        with reporting_file(Path(path)):
            found = os.stat(path)  # noqa: PTH116
            if (found.st_dev, found.st_ino) not in visited:
                visited.add((found.st_dev, found.st_ino))
                pending += reversed(_listed(path, name, suffixes))


def _listed(folder: str, prefix: str, suffixes: tuple[str, ...]) -> list[tuple[str, str, bool]]:
    """Return id, path and whether it is a folder of what is in a folder, in the order of the names."""
    with os.scandir(folder) as entries:
        ordered = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    return [
        (f"{prefix}{entry.name}/" if is_folder else prefix + entry.name, entry.path, is_folder)
        for entry in ordered
        if (is_folder := _is_folder(entry)) or entry.name.lower().endswith(suffixes)
    ]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _file_entry(name: str, path: str) -> Entry:
    """Return the entry of a file; one that does not exist fails when it is read."""
    try:
        found = os.stat(path)  # noqa: PTH116  # a Path takes 2 us more
    except (OSError, ValueError):  # a null character
        return entry_of(name, 0, 0, FilePlace(path))
    return entry_of(name, found.st_size, found.st_mtime_ns, FilePlace(path))


def _store_time(info: dict[str, Any]) -> float:
    """Return the time of an object, under one of the names that stores have for it; 0 if it has none."""
    for key in ("LastModified", "mtime", "updated", "last_modified", "created"):
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp() * 10**9
        if isinstance(value, int | float):
            return value * 10**9
    return 0
