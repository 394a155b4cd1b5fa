"""Many callers and one device: a crowd shares batches, a lone request waits for nobody, a full queue refuses."""

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
from tests.support.fake_device import ENCODE, Kind, Tenfold, house

pytestmark = pytest.mark.anyio


async def test_requests_that_meet_a_busy_device_share_batches():
    async with house() as it:
        first = await it.occupy()
        tasks = it.tasks(*([n] for n in range(1, 21)))
        await it.waits(20)
        it.device.free.set()
        assert await asyncio.gather(first, *tasks) == [[10 * n] for n in range(21)]
        assert [len(batch) for batch in it.device.batches] == [1, 4, 4, 4, 4, 4]
        assert it.count("batches_total", operation="encode", dispatch="full") == 5


async def test_a_lone_request_goes_as_soon_as_the_device_is_free():
    async with house() as it:
        assert await it.ask(7) == [70]
        assert it.device.batches == [[7]]
        assert it.count("batches_total", operation="encode", dispatch="free") == 1


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=20), min_size=1, max_size=12),
    st.integers(1, 6),
    st.integers(0, 6),
)
async def test_everybody_gets_his_own_rows_in_his_own_order(requests, size, quick):
    async with house(max_batch_size=size, max_queue_items=1000, quick=quick) as it:
        answers = await asyncio.gather(*it.tasks(*requests))
        assert answers == [[10 * row for row in rows] for rows in requests]
        assert max(map(len, it.device.batches)) <= min(size, quick or size)
        assert set(it.device.threads) <= ({"MainThread", "device"} if quick else {"device"})


async def test_quick_work_that_arrives_together_shares_batches_on_the_event_loop():
    async with house(max_batch_size=64, quick=8) as it:
        answers = await asyncio.gather(*it.tasks(*([n] for n in range(16))))
        assert answers == [[10 * n] for n in range(16)]
        assert [len(batch) for batch in it.device.batches] == [8, 8]
        assert set(it.device.threads) == {"MainThread"}
        assert it.count("queue_items") == 0


async def test_quick_work_of_which_more_waits_than_a_batch_takes_is_left_to_the_thread():
    async with house(max_batch_size=64, quick=8) as it:
        answers = await asyncio.gather(*it.tasks(*([n] for n in range(20))))
        assert answers == [[10 * n] for n in range(20)]
        assert [len(batch) for batch in it.device.batches] == [8, 8, 4]
        assert set(it.device.threads) == {"device"}
        await until(lambda: it.batcher.idle)
        assert await it.ask(7) == [70]
        assert it.device.threads[-1] == "MainThread"


async def test_the_event_loop_has_its_turn_between_two_quick_batches():
    async with house(max_batch_size=4, quick=4) as it:
        (crowd,) = it.tasks(range(8))
        while not it.device.batches:  # noqa: ASYNC110  # this very loop sets it
            await asyncio.sleep(0)
        await asyncio.gather(*it.tasks([99]))
        assert not crowd.done()
        assert [99 in batch for batch in it.device.batches].index(True) <= 2
        assert await crowd == [10 * n for n in range(8)]


async def test_who_came_during_a_quick_batch_is_heard_before_the_next():
    near, far = socket.socketpair()
    heard = []

    class Knocking(Tenfold):
        def infer(self, kind: Kind, batch: list[int], *, alone: bool = False) -> list[int]:
            far.send(b".")
            heard.append("batch")
            return super().infer(kind, batch, alone=alone)

    def hear() -> None:
        heard.append(near.recv(1).decode())

    with near, far:
        asyncio.get_running_loop().add_reader(near, hear)
        async with house(device=Knocking(quick=1)) as it:
            await asyncio.gather(*it.tasks([1], [2]))
        asyncio.get_running_loop().remove_reader(near)
    assert heard[:3] == ["batch", ".", "batch"]


async def test_quick_work_waits_for_what_the_device_is_at():
    async with house(quick=1) as it:
        it.device.free.clear()
        job = asyncio.create_task(it.batcher.perform(lambda: it.device.infer(ENCODE, [0])))
        await until(lambda: it.device.batches)
        tasks = it.tasks([1], [2])
        await it.waits(2)
        it.device.free.set()
        assert [await job, *await asyncio.gather(*tasks)] == [[0], [10], [20]]
        assert it.device.batches[0] == [0]


async def test_while_the_event_loop_runs_a_batch_the_thread_leaves_the_device_alone():
    class Slow(Tenfold):
        inside = most = 0

        def infer(self, kind: Kind, batch: list[int], *, alone: bool = False) -> list[int]:
            self.inside += 1
            self.most = max(self.most, self.inside)
            if threading.current_thread().name == "MainThread":
                time.sleep(0.1)  # meanwhile the windows of all that waits come to their ends
            self.inside -= 1
            return super().infer(kind, batch, alone=alone)

    async with house(max_delay=0.02, device=Slow(quick=4)) as it, asyncio.timeout(30):
        while "MainThread" not in it.device.threads:  # on a busy machine a window may end before the loop has its turn
            (waking,) = it.tasks([7], kind=Kind("decode"))
            assert await it.ask(1, 2, 3, 4, 5) == [10, 20, 30, 40, 50]
            assert await waking == [70]
        assert it.device.most == 1


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back():
    async with house(max_queue_items=4) as it:
        first = await it.occupy()
        tasks = it.tasks([1, 2], [3])
        await it.waits(3)
        with pytest.raises(QueueFull, match="holds 3 of 4 images, no room for 2 more") as refused:
            await it.ask(4, 5)
        assert int(refused.value.headers["Retry-After"]) >= 1
        assert it.count("rejected_requests_total") == 1
        last = asyncio.create_task(it.ask(6))
        it.device.free.set()
        assert await asyncio.gather(first, *tasks, last) == [[0], [10, 20], [30], [60]]


async def test_who_asks_for_little_does_not_go_before_one_who_was_refused_room_for_much():
    async with house(max_batch_size=1, max_queue_items=32) as it:
        first = await it.occupy()
        tasks = it.tasks(*([n] for n in range(31)))
        await it.waits(31)
        with pytest.raises(QueueFull, match="no room for 9 more"):
            await it.ask(*range(9))
        with pytest.raises(QueueFull, match="no room for 4 more"):
            await it.ask(1)  # there is room for one, but an eighth of the queue is kept for him who was refused
        for task in tasks[:3]:
            task.cancel()
        await it.waits(28)
        tasks += it.tasks([1])
        await it.waits(29)
        it.device.free.set()
        await asyncio.gather(first, *tasks[3:])


async def test_the_time_to_come_back_is_computed_from_what_the_device_does():
    async with house(max_queue_items=40) as it:
        first = await it.occupy()
        await asyncio.sleep(0.25)  # the device is that slow for this one row
        it.device.free.set()
        await first
        it.device.free.clear()
        tasks = it.tasks(range(40))
        await it.waits(36)
        with pytest.raises(QueueFull) as refused:
            await it.ask(*range(5))
        assert int(refused.value.headers["Retry-After"]) >= 36 * 0.25
        it.device.free.set()
        await asyncio.gather(*tasks)


async def test_a_request_of_thousands_makes_a_single_image_wait_for_one_batch_of_it():
    async with house(max_batch_size=64, max_queue_items=8192) as it:
        it.device.free.clear()
        crowd = it.tasks(range(1, 4097))
        await it.waits(4096 - 64)
        single = it.tasks([0])
        await it.waits(4096 - 64 + 1)
        it.device.free.set()
        assert await asyncio.gather(*single, *crowd) == [[0], [10 * n for n in range(1, 4097)]]
        assert [0 in batch for batch in it.device.batches].index(True) == 1
        assert len(it.device.batches) == 65


async def test_weight_counts_in_the_queue_and_in_the_batch():
    async with house(max_batch_size=6, max_queue_items=10) as it:
        first = await it.occupy()
        (task,) = it.tasks([1, 2, 3], kind=Kind("score", 3))
        await it.waits(9)
        with pytest.raises(QueueFull):
            await it.ask(4, kind=Kind("score", 3))
        it.device.free.set()
        await asyncio.gather(first, task)
        assert it.device.batches == [[0], [1, 2], [3]]


async def test_a_window_gathers_company_until_the_batch_is_full():
    async with house(max_delay=1000) as it:
        tasks = it.tasks([1])
        await it.waits(1)
        tasks += it.tasks([2, 3], [4])
        assert await asyncio.gather(*tasks) == [[10], [20, 30], [40]]
        assert it.device.batches == [[1, 2, 3, 4]]
        assert it.count("batches_total", operation="encode", dispatch="full") == 1


async def test_a_window_ends():
    async with house(max_delay=0.2) as it:
        assert await asyncio.gather(*it.tasks([1], [2])) == [[10], [20]]
        assert it.device.batches == [[1, 2]]
        assert it.count("batches_total", operation="encode", dispatch="window") == 1


async def test_a_call_is_told_what_each_stage_took():
    async with house() as it:
        context = RequestContext("id", time.monotonic() + 60)
        await it.batcher.submit(ENCODE, [1], context)
        assert set(context.stage_seconds) == {"queue", "batch", "infer"}
        assert min(context.stage_seconds.values()) >= 0


async def test_every_wait_of_a_divided_request_is_told_as_time_in_the_queue():
    class Steady(Tenfold):
        def infer(self, kind: Kind, batch: list[int], *, alone: bool = False) -> list[int]:
            time.sleep(0.01)
            return super().infer(kind, batch, alone=alone)

    async with house(device=Steady()) as it:
        context = RequestContext("id", time.monotonic() + 60, spans=[])
        others = it.tasks(range(40), range(40), kind=Kind("decode"))
        began = time.monotonic()
        await it.batcher.submit(ENCODE, range(12), context)
        took = time.monotonic() - began
        await asyncio.gather(*others)
    assert sum(context.stage_seconds.values()) <= took
    assert sum(context.stage_seconds.values()) >= 0.9 * took
    assert [lap.stage for lap in context.spans] == ["queue", "batch", "infer"] * 3
    assert all(earlier.end <= later.start for earlier, later in pairwise(context.spans))
