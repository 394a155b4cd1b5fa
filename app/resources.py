"""CPU cores of this machine, and the numbers of workers and threads that follow. Imports no torch, which is slow."""

import os
import sys
from pathlib import Path

from app.settings import Settings, SettingsError

MAX_DEFAULT_WORKERS = 4
"""Workers that are started at most where the settings give no number."""

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cpus() -> int:
    """The CPU cores that this process may use, by its affinity and by the quota of its container."""
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota, period = _QUOTA.read_text().split() if _QUOTA.exists() else ("max", "")
    return allowed if quota == "max" else max(1, min(allowed, int(quota) // int(period)))


def with_worker_count(settings: Settings) -> Settings:
    """The settings with the number of workers filled in.

    Raises `SettingsError` for several workers on a system other than Linux, where connections cannot be passed to them.
    """
    supported = sys.platform == "linux"
    if settings.workers > 1 and not supported:
        raise SettingsError(f"workers: expected 1 on a system other than Linux, got {settings.workers}")
    workers = settings.workers or (min(MAX_DEFAULT_WORKERS, available_cpus()) if supported else 1)
    return settings.model_copy(update={"workers": workers})


def largest_batch(settings: Settings, *, gpu: bool) -> int:
    """The default of the largest batch: a GPU has thousands of cores."""
    return settings.max_batch_size or (256 if gpu else 64)


def threads(settings: Settings) -> int:
    """The CPU threads of one batch: a worker's share of the cores, or all cores but one in a single process.

    Threads of a batch synchronise many times, so one thread that shares its core delays all of them.
    """
    share = available_cpus() // settings.workers if settings.workers > 1 else available_cpus() - 1
    return settings.threads or max(1, share)


def codec_threads(settings: Settings) -> int:
    """Return the number of codec threads: a worker's share of the CPU cores, and one that large images leave free.

    Each large image takes memory while it is decoded.
    """
    return 1 + max(1, available_cpus() // max(1, settings.workers))
