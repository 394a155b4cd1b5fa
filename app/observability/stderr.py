"""Non-blocking writes to stderr: to a pipe, a terminal, a socket or a file."""

import os
import select
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial

STDERR = 2
"""The file descriptor."""

ATOMIC = 4096
"""Bytes that a pipe accepts in one piece (PIPE_BUF of Linux), so that lines of several workers do not mix."""

Write = Callable[[bytes], int]
"""Writes as many of the bytes as there is room for, and returns their number. Raises `OSError` as `os.write` does,
`BlockingIOError` without any room."""


def nonblocking_stderr() -> Write:
    """Return a function that writes to stderr.

    A pipe or a terminal is opened a second time for it: making the descriptor itself non-blocking would make it so for
    all processes that share it.
    """
    with suppress(OSError):
        mode = os.fstat(STDERR).st_mode
        if stat.S_ISSOCK(mode):
            connection = socket.socket(fileno=os.dup(STDERR))
            return lambda piece: connection.send(piece, socket.MSG_DONTWAIT)
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return partial(os.write, os.open(f"/proc/self/fd/{STDERR}", flags))
    return _write_if_ready


def wait_until_writable(seconds: float | None) -> bool:
    """Wait until stderr has room or is broken, for so many seconds at most; returns whether that is so."""
    return bool(_poll(seconds))


def _write_if_ready(piece: bytes) -> int:
    """Write to the descriptor itself if that does not block: for files, and where a pipe cannot be opened again."""
    if not _poll(0):
        raise BlockingIOError
    return os.write(STDERR, piece[:ATOMIC])


def _poll(seconds: float | None) -> list[tuple[int, int]]:
    waiting = select.poll()
    waiting.register(STDERR, select.POLLOUT)
    return waiting.poll(None if seconds is None else max(0.0, seconds) * 1000)
