"""CPU cores of this machine, and the numbers of workers and threads that follow. Imports no torch, which is slow."""

import os
import sys
from contextlib import suppress
from pathlib import Path

from app.settings import Settings, SettingsError

MAX_DEFAULT_WORKERS = 4
"""Workers that are started at most where the settings give no number."""

_CGROUP = Path("/sys/fs/cgroup")
_QUOTA_FILES = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))
"""Microseconds of CPU time in each period, and the period: of a control group of version 2, and of version 1."""


def available_cpus(cgroup: Path = _CGROUP) -> int:
    """The CPU cores that this process may use, by its affinity and by the quota of its container.

    `cgroup` is the folder of control groups, of version 2 or 1.
    """
    found = [len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1]
    for names in _QUOTA_FILES:
        with suppress(OSError):
            quota, period = " ".join((cgroup / name).read_text() for name in names).split()
            if quota not in ("max", "-1"):  # without a quota
                found.append(int(quota) // int(period))
    return max(1, min(found))


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
