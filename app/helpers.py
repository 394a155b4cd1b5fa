"""Threads that compute beside the one that asks, and where they may run: on any core but his; on Linux.

The kernel of a virtual machine takes a core that has halted for one that is not there. Threads that have slept for some
milliseconds it wakes on the core of whoever wakes them, and leaves them there: a lone image has one core then, not all.
"""

import ctypes
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


class Helped:
    """A session of ONNX Runtime with the threads that it starts, where `start` starts it."""

    def __init__(self, start: Callable[[], Any]) -> None:
        before = threads()
        self._session = start()
        self.helpers = threads() - before
        self._cores = os.sched_getaffinity(0)
        self._current: Callable[[], int] = ctypes.CDLL(None).sched_getcpu
        self._own = -1

    def run(self, outputs: Sequence[str] | None, inputs: dict[str, Any]) -> Any:
        """What the session computes, by the thread that this is called on and the others."""
        if self._own != (own := self._current()):
            self._own = own
            self._make_way(self._cores - {own})
        return self._session.run(outputs, inputs)

    def _make_way(self, cores: set[int]) -> None:
        for helper in self.helpers if cores else ():
            with suppress(OSError):  # it is gone, or the cores are not ours any more
                os.sched_setaffinity(helper, cores)


def threads() -> set[int]:
    """Those of this process, as the kernel numbers them."""
    return {int(entry.name) for entry in Path("/proc/self/task").iterdir()}
