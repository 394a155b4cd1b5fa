"""Errors that a user can correct. The command line reports them in one line, without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """An option, a setting, a file or data that cannot be used; the message names it and says what was expected."""


class OptionsError(UserError):
    """Invalid option: `NAME: what was expected and what came`, with the name of its parameter in Python.

    The command line names the option as it is typed.
    """


@contextmanager
def reporting_file(path: Path) -> Iterator[None]:
    """Raise a `UserError` that names the file where the system refuses to open, create or write it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
