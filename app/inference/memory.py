"""Memory of this process and of its machine or container, in bytes, as Linux counts it; elsewhere nothing is known."""

import ctypes
import re
import sys
from contextlib import suppress
from pathlib import Path

_MACHINE = Path("/proc/meminfo")
_PROCESS = Path("/proc/self/status")
_PEAK_RESET = Path("/proc/self/clear_refs")
_CGROUP = Path("/sys/fs/cgroup")


def available(cgroup: Path = _CGROUP) -> int:
    """Bytes that can still be allocated without swapping, of the machine or of its container, whichever has fewer.

    `cgroup` is the folder of a control group of version 2. Of what it has used, the kernel can take back file pages.
    """
    of_machine = _count(_MACHINE, "MemAvailable", sys.maxsize)
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        statistics = (cgroup / "memory.stat").read_text()
    except OSError:
        return of_machine
    reclaimable = re.search(r"^inactive_file (\d+)$", statistics, re.MULTILINE)
    left = sys.maxsize if limit == "max" else int(limit) - used + int(reclaimable[1] if reclaimable else 0)
    return max(0, min(of_machine, left))


def resident() -> int:
    """Bytes of memory that this process holds now; 0 where that is not known."""
    return _count(_PROCESS, "VmRSS", 0)


def peak() -> int:
    """The most bytes of memory that this process has held since `reset_peak`; 0 where that is not known."""
    return _count(_PROCESS, "VmHWM", 0)


def reset_peak() -> None:
    """Let `peak` begin again at what the process holds now (proc_pid_clear_refs(5))."""
    with suppress(OSError):
        _PEAK_RESET.write_text("5")


def trim() -> None:
    """Give memory that was freed back to the system; the C library of GNU keeps much of it after large work."""
    if give_back := getattr(ctypes.CDLL(None), "malloc_trim", None):
        give_back(0)


def _count(file: Path, name: str, unknown: int) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", file.read_text(), re.MULTILINE) if file.exists() else None
    return int(found[1]) * 1024 if found else unknown
