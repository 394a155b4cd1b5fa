"""A batch that fails is taken apart: who poisoned it is told, all others are answered; lack of room is remembered."""

import asyncio
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ServiceError, Unavailable
from tests.support.apps import until
from tests.support.fake_device import Kind, house

pytestmark = pytest.mark.anyio


async def outcomes(tasks) -> list:
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_item_that_poisons_a_batch_is_found_and_all_others_are_answered(caplog):
    async with house(max_batch_size=64) as it:
        first = await it.occupy()
        tasks = it.tasks(*([n] for n in range(1, 20)), [20, -1, 22], *([n] for n in range(30, 50)))
        await it.waits(42)
        it.device.free.set()
        answers = await outcomes(tasks)
        assert answers[:19] + answers[20:] == [[10 * n] for n in (*range(1, 20), *range(30, 50))]
        assert type(answers[19]) is ServiceError
        assert answers[19].detail == "the model failed on item 1 of this request"
        assert len(it.device.batches) <= 1 + 1 + 2 * 6  # a halving for each power of two in 42
        assert await first == [0]
        assert it.count("queue_items") == 0
    assert "hunter2" not in str(answers[19])
    assert [record.exc_info is not None for record in caplog.records if record.getMessage().startswith("1 ")] == [True]


poisoned = st.lists(st.lists(st.sampled_from([*range(40), -1]), min_size=1, max_size=9), min_size=1, max_size=12)


@settings(max_examples=40)
@given(poisoned, st.integers(1, 9), st.integers(1, 9), st.integers(0, 9))
async def test_whatever_is_poisoned_and_however_little_room_there_is_everybody_else_gets_his_own(
    requests, size, room, quick
):
    async with house(max_batch_size=size, max_queue_items=1000, quick=quick) as it:
        it.device.room = room
        answers = await outcomes(it.tasks(*requests))
        for rows, answer in zip(requests, answers, strict=True):
            if -1 in rows:
                assert answer.detail == f"the model failed on item {rows.index(-1)} of this request"
            else:
                assert answer == [10 * row for row in rows]
        assert it.count("queue_items") == 0


async def test_the_rest_of_a_poisoned_request_is_spared_the_device():
    async with house() as it:
        first = await it.occupy()
        (task,) = it.tasks([-1, *range(1, 40)])
        await it.waits(40)
        it.device.free.set()
        (failure,) = await outcomes([task])
        assert "item 0" in failure.detail
        assert await first == [0]
        assert await it.ask(7) == [70]
        assert it.device.batches == [[0], [-1, 1, 2, 3], [-1, 1], [-1], [7]]


async def test_a_batch_without_room_is_halved_until_it_fits_and_the_size_that_fitted_is_remembered(caplog):
    async with house(max_batch_size=16) as it:
        it.device.room = 5
        assert await it.ask(*range(16)) == [10 * n for n in range(16)]
        assert [len(batch) for batch in it.device.batches] == [16, 8, 4, 4, 4, 4]
        assert it.count("out_of_memory_total", operation="encode") == 2
        assert it.count("batch_limit_items", operation="encode") == 4
        it.device.batches.clear()
        assert await it.ask(*range(10)) == [10 * n for n in range(10)]
        assert [len(batch) for batch in it.device.batches] == [4, 4, 2]
        assert it.count("out_of_memory_total", operation="encode") == 2
    assert "at most 4 images to encode" in caplog.text


async def test_what_one_operation_has_no_room_for_another_may_have():
    async with house(max_batch_size=8) as it:
        it.device.room = 4
        await it.ask(*range(8))
        it.device.room = 8
        it.device.batches.clear()
        await it.ask(*range(8), kind=Kind("decode"))
        assert [len(batch) for batch in it.device.batches] == [8]
        assert it.count("batch_limit_items", operation="decode") == 0


async def test_the_limit_counts_in_images_as_the_batch_does():
    async with house(max_batch_size=16) as it:
        it.device.room = 2
        assert await it.ask(*range(4), kind=Kind("score", 4)) == [0, 10, 20, 30]
        assert it.count("batch_limit_items", operation="score") == 2 * 4


async def test_a_single_item_without_room_fails_its_caller_and_shrinks_nobody_elses_batch():
    async with house() as it:
        it.device.room = 0
        with pytest.raises(Unavailable, match="no memory left for a single item"):
            await it.ask(1, 2, 3)
        it.device.room = 4
        it.device.batches.clear()
        assert await it.ask(1, 2, 3, 4) == [10, 20, 30, 40]
        assert len(it.device.batches) == 1


async def test_who_leaves_while_a_batch_is_taken_apart_is_not_worked_for_again():
    async with house(max_batch_size=2, max_delay=1000) as it:
        it.device.free.clear()
        poisoned, leaver = it.tasks([-1], [5])
        await until(lambda: it.device.batches == [[-1, 5]])
        leaver.cancel()
        await asyncio.wait([leaver])
        it.device.free.set()
        with pytest.raises(ServiceError):
            await poisoned
        assert await asyncio.gather(*it.tasks([6], [7])) == [[60], [70]]
        assert it.device.batches == [[-1, 5], [-1], [6, 7]]


async def test_a_lost_device_is_dead_at_once_and_nobody_waits_for_it(caplog):
    async with house() as it:
        first = await it.occupy()
        tasks = it.tasks([-3], [1], range(20))
        await it.waits(22)
        it.device.free.set()
        async with asyncio.timeout(30):
            failures = await outcomes(tasks)
        assert {type(failure) for failure in failures} == {Unavailable}
        assert await first == [0]
        await until(lambda: not it.batcher.alive)
        assert not it.batcher.ready
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]


async def test_a_device_that_the_event_loop_loses_is_dead_as_well(caplog):
    async with house(quick=4) as it:
        with pytest.raises(Unavailable, match="has stopped"):
            await it.ask(-3)
        assert it.device.threads == ["MainThread"]
        await until(lambda: not it.batcher.alive)
        assert not it.batcher.ready
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]
