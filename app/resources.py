"""What there is to serve with, told without torch, which takes seconds and 200 MB: cores, and so processes."""

import os
import sys
from pathlib import Path

from app.settings import Settings, SettingsError

MOST = 4
"""Workers that are started unasked."""

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores() -> int:
    """The cores that this process may use: those of the machine, or of its share of it, where a container has one."""
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota, period = _QUOTA.read_text().split() if _QUOTA.exists() else ("max", "")
    return allowed if quota == "max" else max(1, min(allowed, int(quota) // int(period)))


def resolve(settings: Settings) -> Settings:
    """The settings with a number of workers.

    Raises `SettingsError` for several on a system where no connection can be given to them.
    """
    gives = sys.platform == "linux"
    if settings.workers > 1 and not gives:
        raise SettingsError(f"workers: expected 1 on a system other than Linux, got {settings.workers}")
    workers = settings.workers or (min(MOST, cores()) if gives else 1)
    return settings.model_copy(update={"workers": workers})


def largest_batch(settings: Settings, *, gpu: bool) -> int:
    """Images in one batch: a GPU has thousands of cores to keep busy."""
    return settings.max_batch_size or (256 if gpu else 64)


def threads(settings: Settings) -> int:
    """The CPU threads of one batch: of several workers each has its share of the cores, one alone leaves one core.

    Threads of one batch wait for each other many times: one that has to share its core holds up all of them.
    """
    share = cores() // settings.workers if settings.workers > 1 else cores() - 1
    return settings.threads or max(1, share)


def codec_threads(settings: Settings) -> int:
    """The threads that read and write pictures: a worker's share of the cores, for each picture takes memory as well.

    Two at least, so that a large picture leaves a way for small ones.
    """
    return max(2, cores() // max(1, settings.workers))
