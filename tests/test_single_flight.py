"""A job that is asked for at once by many runs once for all of them, and each gets a result that is not older."""

import asyncio
from itertools import pairwise

import pytest

from app.single_flight import SingleFlight

pytestmark = pytest.mark.anyio


class Job:
    """It gives the number of its run, once it may."""

    def __init__(self) -> None:
        self.runs = self.under_way = 0
        self.may_end = asyncio.Event()

    async def __call__(self) -> int:
        self.runs += 1
        self.under_way += 1
        assert self.under_way == 1
        try:
            number = self.runs
            await self.may_end.wait()
            if number == 3:
                raise ValueError("the third")
            return number
        finally:
            self.under_way -= 1


async def test_at_most_one_run_is_active_and_one_pending():
    job = Job()
    joined = SingleFlight(job)
    first = joined.begin()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    others = [joined.begin() for _ in range(100)]
    assert {*others} == {others[0]} != {first}
    job.may_end.set()
    assert (await first, await others[0], job.runs) == (1, 2, 2)


async def test_all_callers_of_a_run_get_its_exception_and_the_next_run_is_a_new_one(caplog):
    job = Job()
    job.may_end.set()
    joined = SingleFlight(job)
    assert (await joined.begin(), await joined.begin()) == (1, 2)
    for task in [joined.begin() for _ in range(3)]:
        with pytest.raises(ValueError, match="the third"):
            await asyncio.shield(task)
    assert await joined.begin() == 4


async def test_a_cancelled_caller_does_not_cancel_the_run_of_the_others():
    job = Job()
    joined = SingleFlight(job)

    async def ask() -> int:
        return await asyncio.shield(joined.begin())

    leaver, other = asyncio.create_task(ask()), asyncio.create_task(ask())
    await asyncio.sleep(0.01)
    leaver.cancel()
    job.may_end.set()
    assert await other == 1


async def test_a_job_with_rest_takes_a_limited_share_of_the_time():
    began = []

    async def job() -> None:
        began.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.02)

    joined = SingleFlight(job, rest=2)
    for _ in range(4):
        await joined.begin()
    assert all(later - earlier >= 3 * 0.02 * 0.9 for earlier, later in pairwise(began))
