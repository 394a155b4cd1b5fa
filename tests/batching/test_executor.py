"""A failing batch is bisected: the failing request gets an error, all others are answered; memory limits are kept."""

import asyncio
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ServiceError, Unavailable
from tests.support.apps import until
from tests.support.fake_device import running_batcher

pytestmark = pytest.mark.anyio


async def outcomes(tasks) -> list:
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_bisection_isolates_the_failing_item_and_answers_all_others(caplog):
    async with running_batcher(max_batch_size=64) as harness:
        first = await harness.block_device()
        tasks = harness.tasks(*([n] for n in range(1, 20)), [20, -1, 22], *([n] for n in range(30, 50)))
        await harness.queue_holds(42)
        harness.device.unblocked.set()
        answers = await outcomes(tasks)
        assert answers[:19] + answers[20:] == [[10 * n] for n in (*range(1, 20), *range(30, 50))]
        assert type(answers[19]) is ServiceError
        assert answers[19].detail == "the model failed on item 1 of this request"
        assert len(harness.device.batches) <= 1 + 1 + 2 * 6  # a halving for each power of two in 42
        assert await first == [0]
        assert harness.batcher.queued_items == 0
    assert "hunter2" not in str(answers[19])
    assert [record.exc_info is not None for record in caplog.records if record.getMessage().startswith("1 ")] == [True]


failing_requests = st.lists(
    st.lists(st.sampled_from([*range(40), -1]), min_size=1, max_size=9), min_size=1, max_size=12
)


@settings(max_examples=40)
@given(failing_requests, st.integers(1, 9), st.integers(1, 9), st.integers(0, 9))
async def test_failing_rows_and_lack_of_memory_affect_no_other_request(requests, size, capacity, inline_rows):
    async with running_batcher(max_batch_size=size, max_queue_items=1000, inline_rows=inline_rows) as harness:
        harness.device.capacity = capacity
        answers = await outcomes(harness.tasks(*requests))
        for rows, answer in zip(requests, answers, strict=True):
            if -1 in rows:
                assert answer.detail == f"the model failed on item {rows.index(-1)} of this request"
            else:
                assert answer == [10 * row for row in rows]
        assert harness.batcher.queued_items == 0


async def test_the_rest_of_a_failed_request_is_not_computed():
    async with running_batcher() as harness:
        first = await harness.block_device()
        (task,) = harness.tasks([-1, *range(1, 40)])
        await harness.queue_holds(40)
        harness.device.unblocked.set()
        (failure,) = await outcomes([task])
        assert "item 0" in failure.detail
        assert await first == [0]
        assert await harness.submit(7) == [70]
        assert harness.device.batches == [[0], [-1, 1, 2, 3], [-1, 1], [-1], [7]]


async def test_out_of_memory_halves_the_batch_and_limits_later_batches(caplog):
    async with running_batcher(max_batch_size=16) as harness:
        harness.device.capacity = 5
        assert await harness.submit(*range(16)) == [10 * n for n in range(16)]
        assert [len(batch) for batch in harness.device.batches] == [16, 8, 4, 4, 4, 4]
        assert harness.metric("out_of_memory_total", operation="encode") == 2
        assert harness.metric("batch_limit_items", operation="encode") == 4
        harness.device.batches.clear()
        assert await harness.submit(*range(10)) == [10 * n for n in range(10)]
        assert [len(batch) for batch in harness.device.batches] == [4, 4, 2]
        assert harness.metric("out_of_memory_total", operation="encode") == 2
    assert "batches of encode are limited to 4 items" in caplog.text


async def test_the_batch_limit_of_one_operation_does_not_apply_to_another():
    async with running_batcher(max_batch_size=8) as harness:
        harness.device.capacity = 4
        await harness.submit(*range(8))
        harness.device.capacity = 8
        harness.device.batches.clear()
        await harness.submit(*range(8), operation="decode")
        assert [len(batch) for batch in harness.device.batches] == [8]
        assert harness.metric("batch_limit_items", operation="decode") == 0


async def test_the_batch_limit_counts_items():
    async with running_batcher(max_batch_size=16) as harness:
        harness.device.capacity = 2
        assert await harness.submit(*range(4), operation="score", weight=4) == [0, 10, 20, 30]
        assert harness.metric("batch_limit_items", operation="score") == 2 * 4


async def test_a_single_item_that_does_not_fit_sets_no_batch_limit():
    async with running_batcher() as harness:
        harness.device.capacity = 0
        with pytest.raises(Unavailable, match="no memory left for a single item"):
            await harness.submit(1, 2, 3)
        harness.device.capacity = 4
        harness.device.batches.clear()
        assert await harness.submit(1, 2, 3, 4) == [10, 20, 30, 40]
        assert len(harness.device.batches) == 1


async def test_a_request_cancelled_during_bisection_is_not_computed_again():
    async with running_batcher(max_batch_size=2, max_delay=1000) as harness:
        harness.device.unblocked.clear()
        failing_requests, cancelled = harness.tasks([-1], [5])
        await until(lambda: harness.device.batches == [[-1, 5]])
        cancelled.cancel()
        await asyncio.wait([cancelled])
        harness.device.unblocked.set()
        with pytest.raises(ServiceError):
            await failing_requests
        assert await asyncio.gather(*harness.tasks([6], [7])) == [[60], [70]]
        assert harness.device.batches == [[-1, 5], [-1], [6, 7]]


async def test_a_lost_device_fails_all_requests_at_once(caplog):
    async with running_batcher() as harness:
        first = await harness.block_device()
        tasks = harness.tasks([-3], [1], range(20))
        await harness.queue_holds(22)
        harness.device.unblocked.set()
        async with asyncio.timeout(30):
            failures = await outcomes(tasks)
        assert {type(failure) for failure in failures} == {Unavailable}
        assert await first == [0]
        await until(lambda: not harness.batcher.alive)
        assert not harness.batcher.ready
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]


async def test_a_device_lost_by_an_inline_batch_ends_the_device_thread(caplog):
    async with running_batcher(inline_rows=4) as harness:
        with pytest.raises(Unavailable, match="has stopped"):
            await harness.submit(-3)
        assert harness.device.threads == ["MainThread"]
        await until(lambda: not harness.batcher.alive)
        assert not harness.batcher.ready
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]


async def test_padding_is_counted_and_its_results_are_left_out():
    async with running_batcher() as harness:
        harness.device.padded_to = 4
        assert await harness.submit(1, 2, 3) == [10, 20, 30]
        assert harness.device.batches == [[1, 2, 3, 0]]
        assert harness.metric("padding_items_total") == 1
