"""Threads that compute beside the one that asks, and where they may run: on any core but his; on Linux.

On a virtual machine whose other core had been idle for some 20 ms, the kernel was seen to wake them on the core of the
thread that asked, and to leave them there: a lone image that came after a pause had one core then, not all.
"""

import ctypes
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


class PinnedSession:
    """A session of ONNX Runtime with the threads that it starts, where `start` starts it."""

    def __init__(self, start: Callable[[], Any]) -> None:
        before = _threads()
        self._session = start()
        self.helpers = _threads() - before
        self._cores = os.sched_getaffinity(0)
        self._current: Callable[[], int] = ctypes.CDLL(None).sched_getcpu
        self._own = -1

    def run(self, outputs: Sequence[str] | None, inputs: dict[str, Any]) -> Any:
        """What the session computes, by the thread that this is called on and the others."""
        if self._own != (own := self._current()):
            self._own = own
            for helper in self.helpers:
                with suppress(OSError):  # it is gone, or there is no other core
                    os.sched_setaffinity(helper, self._cores - {own})
        return self._session.run(outputs, inputs)


def _threads() -> set[int]:
    """Those of this process, as the kernel numbers them."""
    return {int(entry.name) for entry in Path("/proc/self/task").iterdir()}
