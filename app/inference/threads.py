"""Blocking work of a coroutine on a thread of its own."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


async def run_in_own_thread(function: Callable[[], T]) -> T:
    """Return or raise what the function does; the threads of the default executor may all be busy with images.

    Python waits for the thread at the end of the process: one in the code of torch or ONNX Runtime would abort it.
    """
    executor = ThreadPoolExecutor(1, "own")
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, function)
    finally:
        executor.shutdown(wait=False)
