"""What callers of the device wait for, and how it is fulfilled: with an answer, a failure, or too late."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from app.errors import DeadlineExceeded, ServiceError
from app.queueing import Entry


class Job(NamedTuple):
    """Work for the device thread that is no batch."""

    work: Callable[[], Any]
    future: "asyncio.Future[Any]"


def settle(entries: Sequence[Entry], failure: ServiceError | None) -> None:
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
