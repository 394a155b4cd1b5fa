"""Errors that a user can correct, in one line on stderr, with exit code 2; and the exit codes of other ends."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import NoReturn

import typer

from model.errors import UserError

UNREADABLE = 3
"""Exit code of a command that has left out images that it could not read."""

EXTRAS = {"matplotlib": "train", "pyarrow": "datasets", "ray": "ray"}
"""The extra that installs each optional module."""


@contextmanager
def report_user_errors() -> Iterator[None]:
    """Report a `UserError` in one line on stderr, with exit code 2. Any other exception keeps its traceback."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        _exit(f"{error}; install it with pip install 'vae-service[{extra}]'")
    except UserError as error:
        _exit(str(error))


def _exit(text: str) -> NoReturn:
    """Exit with code 2 after a line on stderr, or after a second if stderr is a pipe that is full."""
    for handler in logging.root.handlers:
        handler.flush()  # the line is the last one
    writing = Thread(target=typer.echo, args=(f"vae: {text}",), kwargs={"err": True}, daemon=True)
    writing.start()
    writing.join(1)
    if writing.is_alive():
        os._exit(2)
    raise typer.Exit(2) from None
