"""Open files of a serving process: the limit is raised, and no more connections are allowed than it has room for.

A process at its limit cannot accept a connection, not even to close an idle one for it.
"""

import logging
import sys
from contextlib import suppress

from app.settings import Settings

log = logging.getLogger(__name__)

OTHER_FILES = 128
"""Descriptors of a process that are no connections: model files, libraries, log, metrics, and sockets of its own."""


def fit_connections(settings: Settings) -> Settings:
    """Raise the limit of open files as far as the system permits; where it is too low, allow fewer connections."""
    limit = _raise_limit()
    room = limit - min(OTHER_FILES, limit // 2)
    if settings.max_connections <= room:
        return settings
    text = "the limit of open files (ulimit -n) is %d: %d connections are allowed in a process, not %d"
    log.warning(text, limit, room, settings.max_connections)
    return settings.model_copy(update={"max_connections": room})


def _raise_limit() -> int:
    """Raise the soft limit of open files to the hard limit, and return what holds then."""
    if sys.platform != "linux":
        return sys.maxsize
    import resource  # noqa: PLC0415  # not every system has it

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
