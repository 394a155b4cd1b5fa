"""Interruption of a long computation between its steps, by a check that its caller installs for the thread."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Check = Callable[[], None]
"""Raises an exception if the result of the computation is not needed any more."""

_installed: ContextVar[Check | None] = ContextVar("check", default=None)


@contextmanager
def interruptible_by(check: Check) -> Iterator[None]:
    """Install a check for the computations in this context."""
    token = _installed.set(check)
    try:
        yield
    finally:
        _installed.reset(token)


def check_interruption() -> None:
    """Call the installed check; a computation of seconds calls this between two steps."""
    if (check := _installed.get()) is not None:
        check()
