"""Errors that a user can correct, in one line on stderr, with exit code 2; and the exit codes of other ends."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from model.errors import OptionsError, UserError

UNREADABLE = 3
"""Exit code of a command that has left out images that it could not read."""

EXTRAS = {"matplotlib": "train", "pyarrow": "datasets", "ray": "ray"}
"""The extra that installs each optional module."""


class OneLineErrors(TyperGroup):
    """A group of commands that reports arguments that typer refuses in one line as well."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        if not args:  # typer prints the help
            return super().make_context(info_name, args, *rest, **extra)
        try:
            return super().make_context(info_name, args, *rest, **extra)
        except TyperException as error:
            _exit(f"{_described(error)}; vae -h prints the options")

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TyperException as error:
            command = " ".join(filter(None, ("vae", ctx.invoked_subcommand)))
            _exit(f"{_described(error)}; {command} -h prints the options")


def _described(error: TyperException) -> str:
    """Return the parameter that is wrong, as it is typed, what was expected and what came."""
    parameter = getattr(error, "param", None)
    if parameter is None:
        return error.format_message().rstrip(".")
    name = parameter.name if parameter.param_type_name == "argument" else parameter.opts[0]
    return f"{name}: {error.message.rstrip('.') or 'expected a value, got none'}"


def _as_typed(message: str) -> str:
    """Replace the name of a parameter at the beginning of a message by its option."""
    from app.settings import option_of  # noqa: PLC0415  # no command needs it that succeeds

    name, colon, rest = message.partition(":")
    return f"{option_of(name)}{colon}{rest}"


@contextmanager
def report_user_errors() -> Iterator[None]:
    """Report a `UserError` in one line on stderr, with exit code 2. Any other exception keeps its traceback.

    An option is named as it is typed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        _exit(f"{error}; install it with pip install 'vae-service[{extra}]'")
    except OptionsError as error:
        _exit(_as_typed(str(error)))
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
