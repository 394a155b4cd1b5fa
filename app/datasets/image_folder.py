"""A folder of image files that a command writes: one for each image of a data set, under its relative path."""

import errno
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any
from unicodedata import category

import numpy as np

from app.codecs.lossy import DEFAULT_QUALITY, write_lossy
from app.codecs.media_types import JPEG, WEBP
from app.codecs.png import write_png
from app.datasets.options import ImageFormat
from app.datasets.output import require_no_others, require_regular
from model.data.arrays import DataError
from model.errors import UserError, reporting_file
from model.files import read_json, write_atomically, write_json

RECIPE = "recipe.json"
"""File with what determines the images: the model, and the options."""

UNREADABLE = "unreadable.txt"
"""File with the images that could not be read and the reasons."""

_OF_KILLED_RUN = re.compile(rf"{re.escape(RECIPE)}\.[0-9a-f]+\.partial")

_LOSSY = {"jpeg": JPEG, "webp": WEBP}
_SUFFIXES = {"png": (".png",), "jpeg": (".jpg", ".jpeg"), "webp": (".webp",)}


class NameTooLong(UserError):
    """Name of an image that the file system does not allow."""


class ImageFolder:
    """Image files of one format below a folder that exists, written one by one, each complete or not there.

    One process writes to it at a time, see `locked_folder`. Raises `DataError` for a folder with files of others, and
    for one with images of another recipe unless they are to be overwritten.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Mapping[str, Any],
        image_format: ImageFormat = "png",
        quality: int = DEFAULT_QUALITY,
        *,
        overwrite: bool = False,
    ) -> None:
        self.folder, self._format, self._quality, self._overwrite = folder, image_format, quality, overwrite
        if not (folder / RECIPE).exists():
            require_no_others(folder, RECIPE, _OF_KILLED_RUN)
        require_regular(folder / UNREADABLE)
        described = {**recipe, "image_format": image_format, "quality": quality if image_format in _LOSSY else None}
        if not overwrite and (folder / RECIPE).exists():
            _require_recipe(folder, described)
        write_json(folder / RECIPE, described)

    def has(self, name: str) -> bool:
        """Return whether the image of an id is there, and is to be kept."""
        return not self._overwrite and os.path.exists(self.path(name))  # noqa: PTH110  # False for a long name

    def require_own_paths(self, names: Iterable[str]) -> None:
        """Raise `DataError` if two of these ids have one path, or one has the path of another's folder.

        Also for a path on which a link leads out of the folder, and for a folder with the name of a file beside them.
        """
        owners: dict[Path, str] = {}
        folders: set[Path] = set()
        for name in names:
            path = self.path(name)
            if owners.setdefault(path, name) != name:
                raise DataError(f"{path}: expected one image, got {owners[path]} and {name}; rename one of them")
            if path.parent not in folders:
                self._require_below(path.parent)
                folders.update(path.parents)
        for name in (RECIPE, UNREADABLE):
            if (found := self.folder / name) in folders:
                raise DataError(f"{found}: expected the file of the command, got a folder of images; rename it")
        if both := owners.keys() & folders:
            raise DataError(f"{min(both)}: expected an image or a folder, got both; rename one of them")

    def _require_below(self, parent: Path) -> None:
        if not (resolved := parent.resolve()).is_relative_to(self.folder.resolve()):
            raise DataError(f"{parent}: expected a folder below {self.folder}, got a link to {resolved}")

    def path(self, name: str) -> Path:
        """Return the path of the image of an id, always below the folder: `cats/tom.jpg.png`."""
        parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "//", "..")]
        *parents, last = parts or ["_"]
        suffixes = _SUFFIXES[self._format]
        own = last if PurePosixPath(last).suffix.lower() in suffixes else last + suffixes[0]
        return self.folder.joinpath(*(_printable(part) for part in (*parents, own)))

    def write(self, name: str, pixels: np.ndarray) -> None:
        """Write an image, uint8 [C, H, W]. Raises `NameTooLong`, and `UserError` where the disk is full."""
        media_type = _LOSSY.get(self._format)
        content = write_lossy(media_type, pixels, self._quality) if media_type else write_png(pixels)
        path = self.path(name)
        partial = path.with_name(f".{sha256(path.name.encode()).hexdigest()[:16]}.partial")  # short
        with reporting_file(path), _reporting_long_name(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.unlink(missing_ok=True)  # of a run that was killed, or a link, through which it would write
                with partial.open("xb") as file:
                    file.write(content)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)

    def write_unreadable(self, reasons: Sequence[tuple[str, str]]) -> None:
        """Write the list of the images that could not be read, each by its id and the reason."""
        if reasons:
            content = "".join(f"{name}: {reason}\n" for name, reason in reasons)
            write_atomically(self.folder / UNREADABLE, content.encode())
        else:
            (self.folder / UNREADABLE).unlink(missing_ok=True)


@contextmanager
def _reporting_long_name(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise NameTooLong(f"{path}: {error.strerror}") from None


def _require_recipe(folder: Path, described: Mapping[str, Any]) -> None:
    """Raise `DataError` for a folder with images of another recipe."""
    found = read_json(folder / RECIPE)
    if not isinstance(found, dict):
        raise DataError(f"{folder / RECIPE}: expected an object, got {type(found).__name__}")
    if found != described:
        differing = [name for name, value in described.items() if found.get(name) != value]
        has, got = "images of another recipe", ""
        if differing:
            has, got = f"images with {_shown(found, differing)}", f", got {_shown(described, differing)}"
        raise DataError(f"{folder}: has {has}{got}; choose another folder, or --overwrite")


def _shown(recipe: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return fields of a recipe and their values; a model has a digest in its name."""
    shown = [name for name in names if name != "digest" or "model" not in names]
    return ", ".join(f"{name} {json.dumps(recipe.get(name)):.80}" for name in shown)


def _printable(part: str) -> str:
    """Return a name without control characters and colons, which some systems do not allow."""
    return "".join("_" if category(character) == "Cc" or character == ":" else character for character in part)
