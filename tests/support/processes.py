"""Properties and limits of other processes, as the system reports them."""

import os
import resource
import signal
from pathlib import Path

import psutil

from tests.support.apps import until


def exists(pid: int) -> bool:
    """Whether a process exists, also one that has exited and was not waited for."""
    return psutil.pid_exists(pid)


async def kill(*pids: int) -> None:
    """Kill processes, and wait until they have gone."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    await until(lambda: not any(map(exists, pids)))


def count_sockets(pid: int) -> int:
    """The number of open sockets of a process."""
    count = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            count += str(file.readlink()).startswith("socket:")
        except FileNotFoundError:  # it was closed meanwhile
            continue
    return count


def first_free_descriptor(pid: int) -> int:
    """The lowest number that is not an open file descriptor of a process."""
    taken = {int(file.name) for file in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in range(len(taken) + 1) if number not in taken)


def limit_descriptors(pid: int, limit: int) -> None:
    """Let a process open no file descriptor of this number or a higher one; those that are open stay."""
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]))
