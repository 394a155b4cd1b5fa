"""The first steps of a serving process, before any slow import: its standard files and its signals."""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

STDERR = 2
"""The file descriptor."""

_RELOAD = {signal.SIGHUP} if hasattr(signal, "SIGHUP") else set()
_STOP = (signal.SIGTERM, signal.SIGINT)


def begin(words: Sequence[str]) -> None:
    """The first steps of the command with these words; taken twice, they do no harm."""
    open_standard_files()
    if words[:1] == ["serve"]:
        hold_signals()


def open_standard_files() -> None:
    """Open /dev/null for each of stdin, stdout and stderr that is closed, so that no socket takes its descriptor.

    Libraries in C write to descriptors 1 and 2 whatever is open there.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(STDERR, "w", closefd=False)


def hold_signals() -> None:
    """Until the server handles signals, SIGHUP waits, and SIGTERM and SIGINT end the process with exit code 0.

    Without this SIGHUP would end the process, and the first process of a container would ignore SIGTERM.
    """
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, _RELOAD)
    for number in _STOP:
        signal.signal(number, _stop)


def release_signals() -> None:
    """Deliver a SIGHUP that has waited: its handler is installed."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _RELOAD)


def ignore_signals() -> None:
    """The process is about to end, and its exit code is known: no signal changes it any more."""
    for number in (*_STOP, *_RELOAD):
        signal.signal(number, signal.SIG_IGN)


def _stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # signal's signature
    logging.shutdown()
    os._exit(0)  # an exception could get lost in the middle of an import
