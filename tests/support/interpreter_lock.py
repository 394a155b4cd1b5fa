"""How often the interpreter's lock is handed over while a function runs in a thread."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread

from app.errors import ServiceError


def lock_handovers(work: Callable[[], object]) -> int:
    """Return how many times this thread got the interpreter's lock while `work` ran in another one.

    A call into C that keeps the lock until it ends allows a few. The count says nothing about time.
    """
    thread, count = Thread(target=_until_refused, args=(work,)), 0
    with _shortest_switch_interval():
        thread.start()
        while thread.is_alive():
            time.sleep(0)  # releases the lock, and waits for it
            count += 1
    return count


def _until_refused(work: Callable[[], object]) -> None:
    with suppress(ServiceError, ValueError):
        work()


@contextmanager
def _shortest_switch_interval() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
