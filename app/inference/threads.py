"""Blocking work of a coroutine on a thread of its own."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


async def run_in_own_thread(function: Callable[[], T]) -> T:
    """Return or raise what the function does; the threads of the default executor may all be busy with images.

    The end of the process does not wait for the thread.
    """
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function())
        except BaseException as failure:  # noqa: BLE001  # as an executor does
            future.set_exception(failure)

    threading.Thread(target=run, name="own", daemon=True).start()
    return await asyncio.wrap_future(future)
