"""Checks of arguments before a request is sent: each error names the argument, what was expected and what came."""

import math
from numbers import Integral, Real
from typing import Any

Size = tuple[int, int]
"""Height and width of images in pixels."""

_MAX_SECONDS = 1e9
"""Seconds that a socket takes as a timeout; it has 64 bits for nanoseconds."""


def base_url(url: str) -> str:
    """Check the address of a service. Raises `ValueError` for one without http:// or https://."""
    if not str(url).startswith(("http://", "https://")):
        raise ValueError(f"url: expected an address such as http://localhost:8000, got {url!r}")
    return str(url)


def integer(name: str, value: int, least: int | None = None) -> int:
    """Return an integer, of Python or NumPy. Raises `TypeError` for others, `ValueError` for one below `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
    if least is not None and value < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {value}")
    return value


def seconds(name: str, value: float | None) -> float | None:
    """Return a number of seconds, or None. Raises `TypeError` for others, `ValueError` for 0, less, and infinity."""
    if value is None:
        return None
    expected = f"{name}: expected a number of seconds above 0, or None"
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{expected}, got {type(value).__name__}")
    if not 0 < value < math.inf:
        raise ValueError(f"{expected}, got {value}")
    return min(float(value), _MAX_SECONDS)


def function(name: str, value: Any) -> Any:
    """Return a function, or None. Raises `TypeError` for others."""
    if value is not None and not callable(value):
        raise TypeError(f"{name}: expected a function or None, got {type(value).__name__}")
    return value


def sides(size: Size | None) -> dict[str, int]:
    """Return the parameters of a size (H, W). Raises `TypeError` for what is no pair of integers."""
    if size is None:
        return {}
    try:
        height, width = size
    except (TypeError, ValueError):
        raise TypeError(f"size: expected a height and a width in pixels, got {size!r}") from None
    return {"height": integer("size[0]", height), "width": integer("size[1]", width)}
