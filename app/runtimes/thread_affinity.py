"""Placement of ONNX Runtime's worker threads: on any core but that of the calling thread; Linux only.

On a virtual machine with another core that had been idle for about 20 ms, the kernel was seen to wake them on the core
of the calling thread and to leave them there. A single image after a pause had one core then, not all.
"""

import ctypes
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


class PinnedSession:
    """A session of ONNX Runtime, created by `start`, with the worker threads that it starts."""

    def __init__(self, start: Callable[[], Any]) -> None:
        before = _threads()
        self._session = start()
        self.worker_threads = _threads() - before
        self._cores = os.sched_getaffinity(0)
        self._current: Callable[[], int] = ctypes.CDLL(None).sched_getcpu
        self._own = -1

    def run(self, outputs: Sequence[str] | None, inputs: dict[str, Any]) -> Any:
        """Compute the outputs, on the calling thread and the worker threads."""
        if self._own != (own := self._current()):
            self._own = own
            for thread in self.worker_threads:
                with suppress(OSError):  # the thread has ended, or there is no other core
                    os.sched_setaffinity(thread, self._cores - {own})
        return self._session.run(outputs, inputs)


def _threads() -> set[int]:
    """Return the kernel's ids of the threads of this process."""
    return {int(entry.name) for entry in Path("/proc/self/task").iterdir()}
