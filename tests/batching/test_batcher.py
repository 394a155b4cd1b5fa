"""Concurrent requests share batches, a single request never waits for others, and a full queue refuses requests."""

import asyncio
import socket
import threading
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.context import RequestContext
from app.errors import QueueFull
from tests.support.apps import until
from tests.support.fake_device import FakeDevice, FakeKey, running_batcher

pytestmark = pytest.mark.anyio


async def test_requests_share_batches_while_the_device_is_busy():
    async with running_batcher() as harness:
        first = await harness.block_device()
        tasks = harness.tasks(*([n] for n in range(1, 21)))
        await harness.queue_holds(20)
        harness.device.unblocked.set()
        assert await asyncio.gather(first, *tasks) == [[10 * n] for n in range(21)]
        assert [len(batch) for batch in harness.device.batches] == [1, 4, 4, 4, 4, 4]
        assert harness.metric("batches_total", operation="encode", trigger="full") == 5


async def test_a_single_request_is_dispatched_at_once_on_an_idle_device():
    async with running_batcher() as harness:
        assert await harness.submit(7) == [70]
        assert harness.device.batches == [[7]]
        assert harness.metric("batches_total", operation="encode", trigger="idle") == 1


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=20), min_size=1, max_size=12),
    st.integers(1, 6),
    st.integers(0, 6),
)
async def test_each_request_gets_the_results_of_its_own_rows_in_order(requests, size, inline_rows):
    async with running_batcher(max_batch_size=size, max_queue_items=1000, inline_rows=inline_rows) as harness:
        answers = await asyncio.gather(*harness.tasks(*requests))
        assert answers == [[10 * row for row in rows] for rows in requests]
        assert max(map(len, harness.device.batches)) <= min(size, inline_rows or size)
        assert set(harness.device.threads) <= ({"MainThread", "device"} if inline_rows else {"device"})


async def test_short_requests_that_arrive_together_share_inline_batches():
    async with running_batcher(max_batch_size=64, inline_rows=8) as harness:
        answers = await asyncio.gather(*harness.tasks(*([n] for n in range(16))))
        assert answers == [[10 * n] for n in range(16)]
        assert [len(batch) for batch in harness.device.batches] == [8, 8]
        assert set(harness.device.threads) == {"MainThread"}
        assert harness.batcher.queued_items == 0


async def test_short_batches_run_on_the_thread_while_a_backlog_exists():
    async with running_batcher(max_batch_size=64, inline_rows=8) as harness:
        answers = await asyncio.gather(*harness.tasks(*([n] for n in range(20))))
        assert answers == [[10 * n] for n in range(20)]
        assert [len(batch) for batch in harness.device.batches] == [8, 8, 4]
        assert set(harness.device.threads) == {"device"}
        await until(lambda: harness.batcher.idle)
        assert await harness.submit(7) == [70]
        assert harness.device.threads[-1] == "MainThread"


async def test_the_event_loop_runs_other_callbacks_between_two_inline_batches():
    async with running_batcher(max_batch_size=4, inline_rows=4) as harness:
        (large,) = harness.tasks(range(8))
        while not harness.device.batches:  # this very loop sets it
            await asyncio.sleep(0)
        await asyncio.gather(*harness.tasks([99]))
        assert not large.done()
        assert [99 in batch for batch in harness.device.batches].index(True) <= 2
        assert await large == [10 * n for n in range(8)]


async def test_the_event_loop_reads_from_sockets_between_two_inline_batches():
    near, far = socket.socketpair()
    read = []

    class Knocking(FakeDevice):
        def run(self, batch: list[int], *, single: bool = False) -> list[int]:
            far.send(b".")
            read.append("batch")
            return super().run(batch, single=single)

    def read_socket() -> None:
        read.append(near.recv(1).decode())

    with near, far:
        asyncio.get_running_loop().add_reader(near, read_socket)
        async with running_batcher(device=Knocking(inline_rows=1)) as harness:
            await asyncio.gather(*harness.tasks([1], [2]))
        asyncio.get_running_loop().remove_reader(near)
    assert read[:3] == ["batch", ".", "batch"]


async def test_short_batches_wait_while_the_device_thread_is_busy():
    async with running_batcher(inline_rows=1) as harness:
        harness.device.unblocked.clear()
        task = asyncio.create_task(harness.batcher.run_on_device(lambda: harness.device.run([0])))
        await until(lambda: harness.device.batches)
        tasks = harness.tasks([1], [2])
        await harness.queue_holds(2)
        harness.device.unblocked.set()
        assert [await task, *await asyncio.gather(*tasks)] == [[0], [10], [20]]
        assert harness.device.batches[0] == [0]


async def test_the_thread_runs_no_batch_during_an_inline_batch():
    class Slow(FakeDevice):
        inside = most = 0

        def run(self, batch: list[int], *, single: bool = False) -> list[int]:
            self.inside += 1
            self.most = max(self.most, self.inside)
            if threading.current_thread().name == "MainThread":
                time.sleep(0.1)  # meanwhile the windows of all that waits come to their ends
            self.inside -= 1
            return super().run(batch, single=single)

    async with running_batcher(max_delay=0.02, device=Slow(inline_rows=4)) as harness, asyncio.timeout(30):
        while (
            "MainThread" not in harness.device.threads
        ):  # on a busy machine a window may end before the loop has its turn
            (waking,) = harness.tasks([7], operation="decode")
            assert await harness.submit(1, 2, 3, 4, 5) == [10, 20, 30, 40, 50]
            assert await waking == [70]
        assert harness.device.most == 1


async def test_a_full_queue_refuses_with_a_retry_after():
    async with running_batcher(max_queue_items=4) as harness:
        first = await harness.block_device()
        tasks = harness.tasks([1, 2], [3])
        await harness.queue_holds(3)
        with pytest.raises(QueueFull, match="holds 3 of 4 images, no room for 2 more") as refused:
            await harness.submit(4, 5)
        assert int(refused.value.headers["Retry-After"]) >= 1
        assert harness.metric("rejected_requests_total") == 1
        last = asyncio.create_task(harness.submit(6))
        harness.device.unblocked.set()
        assert await asyncio.gather(first, *tasks, last) == [[0], [10, 20], [30], [60]]


async def test_a_request_of_more_items_than_the_queue_holds_is_computed_when_no_other_waits():
    async with running_batcher(max_batch_size=1, max_queue_items=4) as harness:
        assert await harness.submit(1, weight=100) == [10]
        first = await harness.block_device()
        tasks = harness.tasks([2])
        await harness.queue_holds(1)
        with pytest.raises(QueueFull, match="holds 1 of 4 images, no room for 4 more"):
            await harness.submit(3, weight=100)
        harness.device.unblocked.set()
        await asyncio.gather(first, *tasks)
        assert await harness.submit(3, weight=100) == [30]


async def test_a_small_request_does_not_overtake_a_large_one_that_was_refused():
    async with running_batcher(max_batch_size=1, max_queue_items=32) as harness:
        first = await harness.block_device()
        tasks = harness.tasks(*([n] for n in range(31)))
        await harness.queue_holds(31)
        with pytest.raises(QueueFull, match="no room for 9 more"):
            await harness.submit(*range(9))
        with pytest.raises(QueueFull, match="no room for 4 more"):
            await harness.submit(1)  # one row would fit, but an eighth of the queue is reserved for the refused request
        for task in tasks[:3]:
            task.cancel()
        await harness.queue_holds(28)
        tasks += harness.tasks([1])
        await harness.queue_holds(29)
        harness.device.unblocked.set()
        await asyncio.gather(first, *tasks[3:])


async def test_small_requests_find_room_in_a_queue_that_large_ones_keep_full():
    async with running_batcher(max_batch_size=1, max_queue_items=64) as harness:
        first = await harness.block_device()
        tasks = harness.tasks(range(32), range(32))
        await harness.queue_holds(64)
        with pytest.raises(QueueFull, match="holds 64 of 64 images, no room for 32 more"):
            await harness.submit(*range(32))
        tasks += harness.tasks(*([n] for n in range(8)))  # an eighth of the queue
        await harness.queue_holds(72)
        with pytest.raises(QueueFull, match="holds 72 of 72 images, no room for 8 more"):
            await harness.submit(1)
        with pytest.raises(QueueFull):
            await harness.submit(1, 2)
        harness.device.unblocked.set()
        await asyncio.gather(first, *tasks)
        assert await harness.submit(*range(32)) == [10 * n for n in range(32)]


async def test_small_requests_in_the_room_kept_for_them_take_none_of_the_room_of_large_ones():
    async with running_batcher(max_batch_size=1, max_queue_items=64) as harness:
        first = await harness.block_device()
        tasks = harness.tasks(range(32), range(32))
        await harness.queue_holds(64)
        tasks += harness.tasks(*([n] for n in range(8)))
        await harness.queue_holds(72)
        tasks.pop(0).cancel()
        tasks += harness.tasks(range(32))
        await harness.queue_holds(72)
        harness.device.unblocked.set()
        assert len(await asyncio.gather(first, *tasks)) == 11


async def test_retry_after_is_computed_from_the_throughput_of_the_device():
    async with running_batcher(max_queue_items=40) as harness:
        first = await harness.block_device()
        await asyncio.sleep(0.25)  # the device is that slow for this one row
        harness.device.unblocked.set()
        await first
        harness.device.unblocked.clear()
        tasks = harness.tasks(range(40))
        await harness.queue_holds(36)
        with pytest.raises(QueueFull) as refused:
            await harness.submit(*range(5))
        assert int(refused.value.headers["Retry-After"]) >= 36 * 0.25
        harness.device.unblocked.set()
        await asyncio.gather(*tasks)


async def test_a_single_image_waits_for_one_batch_of_a_request_of_thousands():
    async with running_batcher(max_batch_size=64, max_queue_items=8192) as harness:
        harness.device.unblocked.clear()
        large = harness.tasks(range(1, 4097))
        await harness.queue_holds(4096 - 64)
        single = harness.tasks([0])
        await harness.queue_holds(4096 - 64 + 1)
        harness.device.unblocked.set()
        assert await asyncio.gather(*single, *large) == [[0], [10 * n for n in range(1, 4097)]]
        assert [0 in batch for batch in harness.device.batches].index(True) == 1
        assert len(harness.device.batches) == 65


async def test_the_weight_of_a_key_counts_in_the_queue_and_in_the_batch():
    async with running_batcher(max_batch_size=6, max_queue_items=10) as harness:
        first = await harness.block_device()
        (task,) = harness.tasks([1, 2, 3], operation="score", weight=3)
        await harness.queue_holds(9)
        with pytest.raises(QueueFull):
            await harness.submit(4, operation="score", weight=3)
        harness.device.unblocked.set()
        await asyncio.gather(first, task)
        assert harness.device.batches == [[0], [1, 2], [3]]


async def test_a_batch_delay_collects_rows_until_the_batch_is_full():
    async with running_batcher(max_delay=1000) as harness:
        tasks = harness.tasks([1])
        await harness.queue_holds(1)
        tasks += harness.tasks([2, 3], [4])
        assert await asyncio.gather(*tasks) == [[10], [20, 30], [40]]
        assert harness.device.batches == [[1, 2, 3, 4]]
        assert harness.metric("batches_total", operation="encode", trigger="full") == 1


async def test_a_batch_that_is_not_full_is_dispatched_after_its_delay():
    async with running_batcher(max_delay=0.2) as harness:
        assert await asyncio.gather(*harness.tasks([1], [2])) == [[10], [20]]
        assert harness.device.batches == [[1, 2]]
        assert harness.metric("batches_total", operation="encode", trigger="timeout") == 1


async def test_a_request_records_the_duration_of_each_stage():
    async with running_batcher() as harness:
        context = RequestContext("id", time.monotonic() + 60)
        await harness.batcher.submit(FakeKey(harness.device), [1], context)
        assert set(context.stage_seconds) == {"queue", "batch", "infer"}
        assert min(context.stage_seconds.values()) >= 0


async def test_all_waits_of_a_divided_request_count_as_time_in_the_queue():
    class Steady(FakeDevice):
        def run(self, batch: list[int], *, single: bool = False) -> list[int]:
            time.sleep(0.01)
            return super().run(batch, single=single)

    async with running_batcher(device=Steady()) as harness:
        context = RequestContext("id", time.monotonic() + 60, spans=[])
        others = harness.tasks(range(40), range(40), operation="decode")
        began = time.monotonic()
        await harness.batcher.submit(FakeKey(harness.device), range(12), context)
        took = time.monotonic() - began
        await asyncio.gather(*others)
    assert sum(context.stage_seconds.values()) <= took
    assert [span.stage for span in context.spans] == ["queue", "batch", "infer"] * 3
    assert [queue.start for queue in context.spans[3::3]] == [infer.end for infer in context.spans[2:-1:3]]
    assert all(earlier.end <= later.start for earlier, later in pairwise(context.spans))
