"""Folders that commands write to: new ones, empty ones, and those of an earlier run."""

import re
from pathlib import Path

from model.errors import OptionsError


def require_no_others(folder: Path, index: str, own: re.Pattern[str]) -> None:
    """Raise `DataError` for a folder with names that are not `own`: files of others would be mixed with those of a run.

    Names that begin with a dot do not count. `index` is the file by which the folder of an earlier run is known.
    """
    names = (path.name for path in folder.iterdir())
    others = sorted(name for name in names if not name.startswith(".") and not own.fullmatch(name))
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        expected = f"a new or empty folder, or one with {index} of an earlier run"
        raise OptionsError(f"out: expected {expected}; {folder} has {others[0]!r}{more}")


def require_regular(path: Path) -> None:
    """Raise `DataError` for a folder, pipe or device where a file will be written."""
    if path.exists() and not path.is_file():
        raise OptionsError(f"out: {path}: expected a regular file")
