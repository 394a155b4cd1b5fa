"""How a request ends before its time: late, left, failed, or with the device; nobody waits in vain."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.batching.executor import DeviceLost
from app.context import RequestContext
from app.errors import DeadlineExceeded, ServiceError, Unavailable
from tests.support.apps import until
from tests.support.fake_device import ENCODE, FAULTS, Kind, Tenfold, house

pytestmark = pytest.mark.anyio


async def test_a_deadline_that_passes_in_the_queue_spares_the_device_the_work():
    async with house() as it:
        first = await it.occupy()
        with pytest.raises(DeadlineExceeded):
            await it.ask(1, seconds=0.05)
        assert it.count("dropped_requests_total", why="timed_out") == 1
        await it.waits(0)
        it.device.free.set()
        assert [await first, await it.ask(2)] == [[0], [20]]
        assert it.device.batches == [[0], [2]]


async def test_a_deadline_that_passes_on_the_device_is_told_while_the_device_works_on():
    async with house() as it:
        it.device.free.clear()
        with pytest.raises(DeadlineExceeded):
            await it.ask(1, seconds=0.05)
        it.device.free.set()
        assert await it.ask(2) == [20]


async def test_who_leaves_is_forgotten_before_the_device_works_for_him():
    async with house() as it:
        first = await it.occupy()
        leaver, stayer = it.tasks([1], [2])
        await it.waits(2)
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        assert it.count("queue_items") == 1
        assert it.count("dropped_requests_total", why="cancelled") == 1
        it.device.free.set()
        assert [await first, await stayer] == [[0], [20]]
        assert it.device.batches == [[0], [2]]


async def test_the_rest_of_a_large_request_is_forgotten_when_its_caller_leaves():
    async with house() as it:
        it.device.free.clear()
        (task,) = it.tasks(range(50))
        await it.waits(46)
        task.cancel()
        await it.waits(0)
        it.device.free.set()
        assert await it.ask(99) == [990]
        assert it.device.batches == [[0, 1, 2, 3], [99]]


async def test_closing_answers_everything_accepted_and_takes_nothing_more():
    async with house() as it:
        first = await it.occupy()
        tasks = it.tasks([1], range(2, 12), [12], kind=Kind("decode"))
        await it.waits(12)
        closing = asyncio.create_task(it.batcher.close())
        await until(lambda: not it.batcher.ready)
        with pytest.raises(Unavailable) as refused:
            await it.ask(13)
        assert refused.value.headers["Retry-After"]
        it.device.free.set()
        await closing
        assert [await first, *[await task for task in tasks]] == [[0], [10], [n * 10 for n in range(2, 12)], [120]]
        assert not it.batcher.alive


async def test_closing_does_not_wait_for_a_window():
    async with house(max_delay=1000) as it:
        (task,) = it.tasks([1])
        await it.waits(1)
        await it.batcher.close()
        assert await task == [10]


async def test_closing_needs_none_of_the_threads_that_others_share():
    free, loop = threading.Event(), asyncio.get_running_loop()
    async with house() as it:
        loop.set_default_executor(ThreadPoolExecutor(1))
        work = loop.run_in_executor(None, free.wait)
        try:
            async with asyncio.timeout(10):
                await it.batcher.close()
        finally:
            free.set()
            await work
    assert not it.batcher.alive


async def test_the_death_of_the_device_is_told_to_all_who_wait_and_to_those_who_watch():
    async with house() as it:
        first = await it.occupy()
        tasks = it.tasks([-2], [1], range(20), kind=Kind("decode"))
        others = it.tasks([2])
        await it.waits(23)
        it.device.free.set()
        async with asyncio.timeout(30):
            failures = await asyncio.gather(*tasks, *others, return_exceptions=True)
        assert {type(failure) for failure in failures} == {Unavailable}
        assert await first == [0]
        await until(lambda: not it.batcher.alive)
        assert not it.batcher.ready
        with pytest.raises(Unavailable):
            await it.ask(3)


async def test_a_device_that_is_lost_to_quick_work_is_lost_to_all():
    async with house(quick=2) as it:
        async with asyncio.timeout(30):
            failures = await asyncio.gather(*it.tasks([-3, 1, 2], [4]), return_exceptions=True)
        assert [type(failure) for failure in failures] == [Unavailable, Unavailable]
        await until(lambda: not it.batcher.alive)
        with pytest.raises(Unavailable):
            await it.ask(5)


async def test_a_job_for_the_device_thread_is_done_between_two_batches():
    async with house() as it:
        first = await it.occupy()
        tasks = it.tasks([1], kind=Kind("decode"))
        await it.waits(1)
        job = asyncio.create_task(it.batcher.perform(lambda: list(it.device.batches)))
        await asyncio.sleep(0)
        it.device.free.set()
        assert await job == [[0]]
        assert await asyncio.gather(first, *tasks) == [[0], [10]]


async def test_a_job_that_fails_fails_its_caller_alone():
    async with house() as it:
        with pytest.raises(ZeroDivisionError):
            await it.batcher.perform(lambda: 1 / 0)
        assert await it.ask(1) == [10]
        await it.batcher.close()
        with pytest.raises(Unavailable):
            await it.batcher.perform(lambda: 1)


@pytest.mark.parametrize("death", [DeviceLost, SystemExit])
async def test_jobs_do_not_outlive_the_device(death):
    def lost() -> None:
        raise death

    async with house() as it:
        first = await it.occupy()
        jobs = [asyncio.create_task(it.batcher.perform(job)) for job in (lost, lambda: 1)]
        await asyncio.sleep(0)
        it.device.free.set()
        async with asyncio.timeout(30):
            failures = await asyncio.gather(*jobs, return_exceptions=True)
        assert [type(failure) for failure in failures] == [
            DeviceLost if death is DeviceLost else Unavailable,
            Unavailable,
        ]
        assert await first == [0]
        await until(lambda: not it.batcher.alive)


@pytest.mark.parametrize("row", [row for row in FAULTS if row > -20], ids=lambda row: FAULTS[row].__name__)
@pytest.mark.parametrize("quick", [0, 4], ids=["thread", "event loop"])
async def test_a_wrong_answer_of_the_device_fails_its_request_alone_and_the_service_goes_on(row, quick):
    async with house(quick=quick) as it, asyncio.timeout(30):
        failure, *answers = await asyncio.gather(*it.tasks([row], [1], [2, 3]), return_exceptions=True)
        assert isinstance(failure, ServiceError)
        assert answers == [[10], [20, 30]]
        assert await asyncio.gather(*it.tasks([4], range(9))) == [[40], [10 * n for n in range(9)]]
        assert it.batcher.ready
        assert it.count("queue_items") == 0


@pytest.mark.parametrize("row", [-2, *(row for row in FAULTS if row < -20)])
@pytest.mark.parametrize("quick", [0, 4], ids=["thread", "event loop"])
async def test_what_is_raised_besides_exceptions_ends_the_device_and_every_request_is_answered(row, quick):
    async with house(quick=quick) as it, asyncio.timeout(30):
        requests = it.tasks([row], [1], range(9)), it.tasks([2], kind=Kind("decode"))
        job = asyncio.create_task(it.batcher.perform(lambda: it.device.infer(ENCODE, [row])))
        failures = await asyncio.gather(*(task for tasks in requests for task in tasks), job, return_exceptions=True)
        assert {type(failure) for failure in failures} == {Unavailable}
        await until(lambda: not it.batcher.alive)
        assert not it.batcher.ready
        with pytest.raises(Unavailable):
            await it.ask(3)


@pytest.mark.parametrize("quick", [0, 4], ids=["thread", "event loop"])
async def test_a_fault_of_the_batcher_itself_fails_the_batch_and_the_service_goes_on(quick, caplog):
    class Uncounted(Kind):
        """A kind of an operation that no metric knows by a name it can take."""

        @property
        def operation(self):
            return ("encode", "twice")

    async with house(quick=quick) as it, asyncio.timeout(30):
        with pytest.raises(ServiceError):
            await it.ask(1, 2, kind=Uncounted())
        assert await it.ask(3) == [30]
        assert it.batcher.ready


@pytest.mark.parametrize("quick", [0, 4], ids=["thread", "event loop"])
async def test_a_device_that_does_not_know_its_pace_ends_the_service_and_leaves_no_request_waiting(quick):
    class Lost(Tenfold):
        def pace(self, kind):
            if kind.operation == "decode":
                raise LookupError(kind.operation)
            return super().pace(kind)

    async with house(device=Lost(quick)) as it, asyncio.timeout(30):
        assert await it.ask(1) == [10]
        with pytest.raises(Unavailable):
            await it.ask(2, kind=Kind("decode"))
        await until(lambda: not it.batcher.alive)
        assert not it.batcher.ready


async def test_the_time_in_the_queue_of_a_request_that_ends_there_is_told():
    async with house() as it:
        first = await it.occupy()
        context = RequestContext("id", time.monotonic() + 0.05)
        with pytest.raises(DeadlineExceeded):
            await it.batcher.submit(ENCODE, [1], context)
        assert context.stage_seconds["queue"] >= 0.05
        it.device.free.set()
        await first


async def test_thousands_of_requests_that_leave_at_once_are_forgotten_at_once():
    async with house(max_queue_items=8192) as it:
        first = await it.occupy()
        tasks = it.tasks(*([1] for _ in range(8192)))
        await it.waits(8192)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert it.count("queue_items") == 0
        it.device.free.set()
        assert await first == [0]
        assert it.device.batches == [[0]]
