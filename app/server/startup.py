"""First steps of the command, before any slow import: standard files and signals."""

import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

STDERR = 2
"""The file descriptor."""

_RELOAD = {signal.SIGHUP} if hasattr(signal, "SIGHUP") else set()
_STOP = (signal.SIGTERM, signal.SIGINT)


def prepare_command(arguments: Sequence[str]) -> None:
    """Prepare the process of a command with these arguments; a second call does no harm."""
    open_standard_files()
    if arguments[:1] == ["serve"]:
        hold_signals()


@contextmanager
def without_collections() -> Iterator[None]:
    """Postpone the collection of garbage in a block of slow imports, which takes a quarter of their time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def open_standard_files() -> None:
    """Open /dev/null for each of stdin, stdout and stderr that is closed, so that no socket takes its descriptor.

    Libraries in C write to descriptors 1 and 2 even if they are sockets.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(STDERR, "w", closefd=False)


def hold_signals() -> None:
    """Block SIGHUP, and exit with 0 on SIGTERM and SIGINT, until the server handles signals.

    Otherwise SIGHUP would end the process, and the first process of a container would ignore SIGTERM.
    """
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, _RELOAD)
    for number in _STOP:
        signal.signal(number, _stop)


def release_signals() -> None:
    """Unblock SIGHUP, after its handler was installed."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _RELOAD)


def ignore_signals() -> None:
    """Ignore signals at the end of the process, so that none changes its exit code."""
    for number in (*_STOP, *_RELOAD):
        signal.signal(number, signal.SIG_IGN)


def _stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # signal's signature
    logging.shutdown()
    os._exit(0)  # an exception could be swallowed in the middle of an import
