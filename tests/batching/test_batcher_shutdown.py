"""Requests that end early: past their deadline, cancelled, failed, or on a lost device; each one is answered."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.batching.executor import DeviceLost
from app.context import RequestContext
from app.errors import DeadlineExceeded, ServiceError, Unavailable
from app.observability.metrics import Metrics
from tests.support.apps import until
from tests.support.fake_device import FAULTS, FakeDevice, FakeKey, running_batcher

pytestmark = pytest.mark.anyio


async def test_a_request_whose_deadline_passes_in_the_queue_is_not_computed():
    async with running_batcher() as harness:
        first = await harness.block_device()
        with pytest.raises(DeadlineExceeded):
            await harness.submit(1, seconds=0.05)
        assert harness.metric("dropped_requests_total", reason="timed_out") == 1
        await harness.queue_holds(0)
        harness.device.unblocked.set()
        assert [await first, await harness.submit(2)] == [[0], [20]]
        assert harness.device.batches == [[0], [2]]


async def test_a_deadline_that_passes_during_a_batch_fails_the_request_at_once():
    async with running_batcher() as harness:
        harness.device.unblocked.clear()
        with pytest.raises(DeadlineExceeded):
            await harness.submit(1, seconds=0.05)
        harness.device.unblocked.set()
        assert await harness.submit(2) == [20]


async def test_a_batch_is_abandoned_when_no_request_needs_its_results(caplog):
    async with running_batcher() as harness:
        harness.device.interruptible = True
        cancelled = await harness.block_device()
        kept = harness.tasks([1, 2], [3])
        await harness.queue_holds(3)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        harness.device.unblocked.set()
        assert await asyncio.gather(*kept) == [[10, 20], [30]]
        harness.device.unblocked.clear()
        with pytest.raises(DeadlineExceeded):
            await harness.submit(4, seconds=0.05)
        harness.device.unblocked.set()
        assert await harness.submit(5) == [50]
        assert harness.metric("batch_size_sum", operation="encode") == 4
    assert not caplog.records


async def test_a_cancelled_request_is_not_computed():
    async with running_batcher() as harness:
        first = await harness.block_device()
        cancelled, other = harness.tasks([1], [2])
        await harness.queue_holds(2)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert harness.batcher.queued_items == 1
        assert harness.metric("dropped_requests_total", reason="cancelled") == 1
        harness.device.unblocked.set()
        assert [await first, await other] == [[0], [20]]
        assert harness.device.batches == [[0], [2]]


async def test_the_rest_of_a_cancelled_large_request_is_not_computed():
    async with running_batcher() as harness:
        harness.device.unblocked.clear()
        (task,) = harness.tasks(range(50))
        await harness.queue_holds(46)
        task.cancel()
        await harness.queue_holds(0)
        harness.device.unblocked.set()
        assert await harness.submit(99) == [990]
        assert harness.device.batches == [[0, 1, 2, 3], [99]]


async def test_closing_answers_accepted_requests_and_refuses_new_ones():
    async with running_batcher() as harness:
        first = await harness.block_device()
        tasks = harness.tasks([1], range(2, 12), [12], operation="decode")
        await harness.queue_holds(12)
        closing = asyncio.create_task(harness.batcher.close())
        await until(lambda: not harness.batcher.ready)
        with pytest.raises(Unavailable) as refused:
            await harness.submit(13)
        assert refused.value.headers["Retry-After"]
        harness.device.unblocked.set()
        await closing
        assert [await first, *[await task for task in tasks]] == [[0], [10], [n * 10 for n in range(2, 12)], [120]]
        assert not harness.batcher.alive


async def test_closing_does_not_wait_for_the_batch_delay():
    async with running_batcher(max_delay=1000) as harness:
        (task,) = harness.tasks([1])
        await harness.queue_holds(1)
        await harness.batcher.close()
        assert await task == [10]


async def test_closing_needs_no_thread_of_the_default_executor():
    free, loop = threading.Event(), asyncio.get_running_loop()
    async with running_batcher() as harness:
        loop.set_default_executor(ThreadPoolExecutor(1))
        work = loop.run_in_executor(None, free.wait)
        try:
            async with asyncio.timeout(10):
                await harness.batcher.close()
        finally:
            free.set()
            await work
    assert not harness.batcher.alive


async def test_the_end_of_the_device_thread_fails_all_requests_and_readiness():
    async with running_batcher() as harness:
        first = await harness.block_device()
        tasks = harness.tasks([-2], [1], range(20), operation="decode")
        others = harness.tasks([2])
        await harness.queue_holds(23)
        harness.device.unblocked.set()
        async with asyncio.timeout(30):
            failures = await asyncio.gather(*tasks, *others, return_exceptions=True)
        assert {type(failure) for failure in failures} == {Unavailable}
        assert await first == [0]
        await until(lambda: not harness.batcher.alive)
        assert not harness.batcher.ready
        with pytest.raises(Unavailable):
            await harness.submit(3)


async def test_a_device_lost_during_an_inline_batch_fails_all_requests():
    async with running_batcher(inline_rows=2) as harness:
        async with asyncio.timeout(30):
            failures = await asyncio.gather(*harness.tasks([-3, 1, 2], [4]), return_exceptions=True)
        assert [type(failure) for failure in failures] == [Unavailable, Unavailable]
        await until(lambda: not harness.batcher.alive)
        with pytest.raises(Unavailable):
            await harness.submit(5)


async def test_a_device_task_runs_between_two_batches():
    async with running_batcher() as harness:
        first = await harness.block_device()
        tasks = harness.tasks([1], operation="decode")
        await harness.queue_holds(1)
        task = asyncio.create_task(harness.batcher.run_on_device(lambda: list(harness.device.batches)))
        await asyncio.sleep(0)
        harness.device.unblocked.set()
        assert await task == [[0]]
        assert await asyncio.gather(first, *tasks) == [[0], [10]]


async def test_a_device_task_that_fails_affects_no_batch():
    async with running_batcher() as harness:
        with pytest.raises(ZeroDivisionError):
            await harness.batcher.run_on_device(lambda: 1 / 0)
        assert await harness.submit(1) == [10]
        await harness.batcher.close()
        with pytest.raises(Unavailable):
            await harness.batcher.run_on_device(lambda: 1)


@pytest.mark.parametrize("death", [DeviceLost, SystemExit])
async def test_device_tasks_fail_when_the_device_is_lost(death):
    def lost() -> None:
        raise death

    async with running_batcher() as harness:
        first = await harness.block_device()
        tasks = [asyncio.create_task(harness.batcher.run_on_device(task)) for task in (lost, lambda: 1)]
        await asyncio.sleep(0)
        harness.device.unblocked.set()
        async with asyncio.timeout(30):
            failures = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(failure) for failure in failures] == [
            DeviceLost if death is DeviceLost else Unavailable,
            Unavailable,
        ]
        assert await first == [0]
        await until(lambda: not harness.batcher.alive)


@pytest.mark.parametrize("row", [row for row in FAULTS if row > -20], ids=lambda row: FAULTS[row].__name__)
@pytest.mark.parametrize("inline_rows", [0, 4], ids=["thread", "event loop"])
async def test_an_invalid_result_fails_its_own_request_only(row, inline_rows):
    async with running_batcher(inline_rows=inline_rows) as harness, asyncio.timeout(30):
        failure, *answers = await asyncio.gather(*harness.tasks([row], [1], [2, 3]), return_exceptions=True)
        assert isinstance(failure, ServiceError)
        assert answers == [[10], [20, 30]]
        assert await asyncio.gather(*harness.tasks([4], range(9))) == [[40], [10 * n for n in range(9)]]
        assert harness.batcher.ready
        assert harness.batcher.queued_items == 0


@pytest.mark.parametrize("row", [-2, *(row for row in FAULTS if row < -20)])
@pytest.mark.parametrize("inline_rows", [0, 4], ids=["thread", "event loop"])
async def test_a_base_exception_ends_the_device_thread_and_fails_all_requests(row, inline_rows):
    async with running_batcher(inline_rows=inline_rows) as harness, asyncio.timeout(30):
        requests = harness.tasks([row], [1], range(9)), harness.tasks([2], operation="decode")
        task = asyncio.create_task(harness.batcher.run_on_device(lambda: harness.device.run([row])))
        failures = await asyncio.gather(*(task for tasks in requests for task in tasks), task, return_exceptions=True)
        assert {type(failure) for failure in failures} == {Unavailable}
        await until(lambda: not harness.batcher.alive)
        assert not harness.batcher.ready
        with pytest.raises(Unavailable):
            await harness.submit(3)


@pytest.mark.parametrize("inline_rows", [0, 4], ids=["thread", "event loop"])
async def test_an_internal_error_fails_the_batch_and_later_batches_run(inline_rows, caplog):
    class Faulty(Metrics):
        def count_batch(self, batch):
            if batch.rows == 2:
                raise RuntimeError("no room for a batch of 2 rows")
            super().count_batch(batch)

    async with running_batcher(inline_rows=inline_rows, metrics=Faulty()) as harness, asyncio.timeout(30):
        with pytest.raises(ServiceError):
            await harness.submit(1, 2)
        assert await harness.submit(3) == [30]
        assert harness.batcher.ready


@pytest.mark.parametrize("inline_rows", [0, 4], ids=["thread", "event loop"])
async def test_a_key_without_a_policy_stops_the_batcher_and_fails_all_requests(inline_rows):
    class Lost(FakeDevice):
        def policy_of(self, operation):
            if operation == "decode":
                raise LookupError(operation)
            return super().policy_of(operation)

    async with running_batcher(device=Lost(inline_rows)) as harness, asyncio.timeout(30):
        assert await harness.submit(1) == [10]
        with pytest.raises(Unavailable):
            await harness.submit(2, operation="decode")
        await until(lambda: not harness.batcher.alive)
        assert not harness.batcher.ready


async def test_a_request_that_expires_in_the_queue_records_its_time_there():
    async with running_batcher() as harness:
        first = await harness.block_device()
        context = RequestContext("id", time.monotonic() + 0.05)
        with pytest.raises(DeadlineExceeded):
            await harness.batcher.submit(FakeKey(harness.device), [1], context)
        assert context.stage_seconds["queue"] >= 0.05
        harness.device.unblocked.set()
        await first


async def test_thousands_of_cancelled_requests_leave_the_queue_at_once():
    async with running_batcher(max_queue_items=8192) as harness:
        first = await harness.block_device()
        tasks = harness.tasks(*([1] for _ in range(8192)))
        await harness.queue_holds(8192)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert harness.batcher.queued_items == 0
        harness.device.unblocked.set()
        assert await first == [0]
        assert harness.device.batches == [[0]]
