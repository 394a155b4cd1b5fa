"""What callers of the device wait for, and how it is fulfilled: with an answer, a failure, or too late."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from app.batching.requests import QueuedRequest
from app.errors import DeadlineExceeded, ServiceError

T = TypeVar("T")


class Job(NamedTuple):
    """Work for the device thread that is no batch."""

    work: Callable[[], Any]
    future: "asyncio.Future[Any]"


def settle(entries: Sequence[QueuedRequest], failure: ServiceError | None) -> None:
    """Give each request its answers, or the failure of them all."""
    for entry in entries:
        fulfil(entry.future, entry.answers, failure)


def fulfil(future: "asyncio.Future[Any]", answer: Any, failure: BaseException | None = None) -> None:
    """The answer or the failure, unless the caller has left or has been told already."""
    if future.done():
        return
    if failure is None:
        future.set_result(answer)
    else:
        future.set_exception(failure)


def expire(future: "asyncio.Future[Any]") -> None:
    """The deadline has passed."""
    fulfil(future, None, DeadlineExceeded("the answer was not ready within the request's deadline"))


async def apart(work: Callable[[], T]) -> T:
    """What it returns or raises, in a thread of its own: those that are shared may be busy with pictures."""
    own = ThreadPoolExecutor(1, "apart")
    try:
        return await asyncio.get_running_loop().run_in_executor(own, work)
    finally:
        own.shutdown(wait=False)
