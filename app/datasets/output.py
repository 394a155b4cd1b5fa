"""Folders that commands write to: new ones, empty ones, and those of an earlier run."""

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from glob import has_magic
from pathlib import Path

from app.datasets.entries import without_scheme
from model.errors import OptionsError, UserError, reporting_file

log = logging.getLogger(__name__)


def require_outside(out: Path, locations: Iterable[str | Path]) -> None:
    """Raise `OptionsError` for a path below a folder of a source, or that its pattern leads to.

    The next run would take it as input. Names that begin with a dot are in no source.
    """
    for location in locations:
        if _leads_to(Path(without_scheme(str(location))), out):
            raise OptionsError(f"out: expected a path outside of the source {location}, got {out}")


def _leads_to(location: Path, out: Path) -> bool:
    """Return whether the source at a folder or pattern has the files at a path or below it."""
    is_pattern = not location.exists() and has_magic(str(location))
    if not is_pattern and not location.is_dir():
        return False
    fixed = location
    while is_pattern and has_magic(str(fixed)):
        fixed = fixed.parent
    expected, parts = location.parts[len(fixed.parts) :], out.resolve().parts
    base = fixed.resolve().parts
    below = parts[len(base) :]
    if parts[: len(base)] != base or any(part.startswith(".") for part in below):
        return False
    for pattern, part in zip(expected, below, strict=False):
        if pattern == "**":
            return True
        if not fnmatch(part, pattern):
            return False
    return len(below) >= len(expected)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Create a folder, and keep other processes from writing to it until the context ends.

    Raises `OptionsError` for a path that is no folder, `UserError` if another process writes to it.
    """
    if folder.exists() and not folder.is_dir():
        raise OptionsError(f"out: expected a folder, got the file {folder}")
    with reporting_file(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(folder, descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(folder: Path, descriptor: int) -> None:
    if sys.platform == "win32":
        return
    import fcntl  # noqa: PLC0415  # not on Windows

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{folder}: another process writes to this folder") from None
    except OSError:
        log.warning("%s: the file system has no locks; run one process at a time", folder)


def require_no_others(folder: Path, index: str, own: re.Pattern[str]) -> None:
    """Raise `OptionsError` for a folder with names that are not `own`: files of others would be among those of a run.

    Names that begin with a dot do not count. `index` is the file by which the folder of an earlier run is known.
    """
    names = (path.name for path in folder.iterdir())
    others = sorted(name for name in names if not name.startswith(".") and not own.fullmatch(name))
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        expected = f"a new or empty folder, or one with {index} of an earlier run"
        raise OptionsError(f"out: expected {expected}; {folder} has {others[0]!r}{more}")


def require_regular(path: Path) -> None:
    """Raise `OptionsError` for a folder, pipe or device where a file will be written."""
    if path.exists() and not path.is_file():
        raise OptionsError(f"out: {path}: expected a regular file")
