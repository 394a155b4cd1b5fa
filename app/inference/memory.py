"""Memory of this process and of its machine or container, in bytes; unknown on systems other than Linux."""

import ctypes
import re
import sys
from contextlib import suppress
from pathlib import Path

import torch

_MACHINE = Path("/proc/meminfo")
_PROCESS = Path("/proc/self/status")
_PEAK_RESET = Path("/proc/self/clear_refs")
_CGROUP = Path("/sys/fs/cgroup")
_CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
"""Limit, use and statistics of a control group of version 2, and of version 1."""


def available(cgroup: Path = _CGROUP) -> int:
    """Return the bytes that can be allocated without swapping: the minimum of the machine and of its container.

    `cgroup` is the folder of control groups, of version 2 or 1.
    """
    found = [_count(_MACHINE, "MemAvailable", sys.maxsize)]
    for names in _CGROUP_FILES:
        with suppress(OSError):
            found.append(_left(*((cgroup / name).read_text() for name in names)))
    return max(0, min(found))


def _left(limit: str, used: str, statistics: str) -> int:
    """Return the bytes below the limit of a control group. The kernel can reclaim its inactive file pages."""
    if limit.strip() == "max":
        return sys.maxsize
    reclaimable = re.search(r"^(total_)?inactive_file (\d+)$", statistics, re.MULTILINE)
    return int(limit) - int(used) + int(reclaimable[2] if reclaimable else 0)


def resident() -> int:
    """Return the bytes of memory that this process holds; 0 if unknown."""
    return _count(_PROCESS, "VmRSS", 0)


def peak() -> int:
    """Return the most bytes of memory that this process has held since `reset_peak`; 0 if unknown."""
    return _count(_PROCESS, "VmHWM", 0)


def reset_peak() -> None:
    """Reset `peak` to the memory that the process holds now (proc_pid_clear_refs(5))."""
    with suppress(OSError):
        _PEAK_RESET.write_text("5")


def trim() -> None:
    """Return freed memory to the system; the GNU C library keeps much of it after large allocations."""
    if malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        malloc_trim(0)


class ProcessMemory:
    """The memory of this process: that of a device that is a CPU."""

    available = staticmethod(available)
    held = staticmethod(resident)
    peak = staticmethod(peak)
    reset_peak = staticmethod(reset_peak)


class GpuMemory:
    """The memory of a GPU that this process can have, and has allocated by torch."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def available(self) -> int:
        """Return the bytes that can be allocated."""
        free, _ = torch.cuda.mem_get_info(self._device)
        return free

    def held(self) -> int:
        """Return the bytes that are allocated."""
        return torch.cuda.memory_allocated(self._device)

    def peak(self) -> int:
        """Return the most bytes that were allocated since `reset_peak`."""
        return torch.cuda.max_memory_allocated(self._device)

    def reset_peak(self) -> None:
        """Reset `peak` to the memory that is allocated now."""
        torch.cuda.reset_peak_memory_stats(self._device)


def _count(file: Path, name: str, unknown: int) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", file.read_text(), re.MULTILINE) if file.exists() else None
    return int(found[1]) * 1024 if found else unknown
