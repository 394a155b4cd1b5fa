"""Numeric options with errors that name the expected range and the given value, which typer leaves out."""

from collections.abc import Callable
from typing import Any, TypeVar

import typer

Number = TypeVar("Number", int, float)


def integer_option(meaning: str) -> Any:
    """Return an option with an integer; `meaning` is its line in the help."""
    return typer.Option(help=meaning, parser=lambda value: _parse(int, "an integer", value))


def real_option(meaning: str) -> Any:
    """Return an option with a real number; `meaning` is its line in the help."""
    return typer.Option(help=meaning, parser=lambda value: _parse(float, "a number", value))


def _parse(kind: Callable[[str], Number], expected: str, value: object) -> Number:
    """Parse a text, or a default or a value of a recipe, which may have another type."""
    try:
        return kind(str(value))
    except ValueError:
        raise typer.BadParameter(f"expected {expected}, got {value!r}") from None
