"""The queue keeps every row, in order, once; it is fair between requests and between kinds of work."""

import asyncio
import math
import time
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import count, cycle
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.batching.policy import BatchPolicy
from app.batching.queue import LONGEST, FairQueue, shares
from app.batching.requests import QueuedRequest
from app.context import RequestContext


class Kind(NamedTuple):
    operation: str
    weight: int = 1


KINDS = (Kind("encode"), Kind("decode"), Kind("score", 3))
Ask = Callable[..., QueuedRequest]
examples = settings(max_examples=150)
counts = st.integers(1, 40)
paces = st.sampled_from([BatchPolicy(), BatchPolicy(3), BatchPolicy.of_shapes({1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0})])


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """`ask(rows)` is a request for so many rows: 0, 1, 2, ..."""
    loop = asyncio.new_event_loop()

    def make(rows: int, kind: Kind = KINDS[0], seconds: float = 1000) -> QueuedRequest:
        return QueuedRequest(kind, range(rows), RequestContext("id", time.monotonic() + seconds), loop.create_future())

    yield make
    loop.close()


@examples
@given(st.lists(counts, min_size=1), st.integers(0, 100))
def test_shares_fill_the_room_exactly_and_nobody_gets_more_than_he_waits_for(waiting, room):
    given = shares(waiting, room)
    assert sum(given) == min(room, sum(waiting))
    assert all(0 <= share <= wanted for share, wanted in zip(given, waiting, strict=True))


@examples
@given(st.lists(counts, min_size=1), st.integers(0, 100))
def test_who_gets_less_than_he_waits_for_gets_as_much_as_anybody(waiting, room):
    given = shares(waiting, room)
    assert all(share >= max(given) - 1 for share, wanted in zip(given, waiting, strict=True) if share < wanted)


actions = st.one_of(
    st.tuples(st.just("add"), counts, st.sampled_from(KINDS)),
    st.tuples(st.sampled_from(["remove", "leave"]), st.integers(0, 30)),
    st.tuples(st.just("take"), st.sampled_from([0.0, 0.001, 1.0])),
)


@settings(max_examples=300)
@given(st.lists(actions, max_size=40), st.integers(1, 9), paces)
def test_no_row_is_lost_doubled_or_reordered_whatever_happens(ask, history, size, pace):
    queue, asked, seen, gone = FairQueue(size, pace=lambda _: pace), [], {}, {}

    def take(seconds: float) -> None:
        batch = queue.take()
        assert sum(map(len, batch.parts)) == batch.rows == pace.rows(batch.rows)
        assert batch.rows * batch.kind.weight <= max(size, batch.kind.weight)
        for entry, part in zip(batch.entries, batch.parts, strict=True):
            assert entry.kind == batch.kind
            assert len(part) > 0
            seen[entry].extend(part)
        queue.spend(seconds)

    for action, *details in history:
        if action == "add":
            asked.append(entry := ask(*details))
            seen[entry] = []
            queue.add(entry)
        elif action == "take" and queue:
            take(*details)
        elif action in ("remove", "leave") and asked:
            entry = asked[details[0] % len(asked)]
            entry.future.cancel()
            gone.setdefault(entry, len(seen[entry]))
            if action == "remove":
                queue.remove(entry)
                queue.remove(entry)  # a second time, nothing happens
        living = sum(entry.cost for entry in asked if not entry.future.done())
        left = sum(entry.cost for entry in asked if entry.future.done())
        assert living <= queue.depth <= living + left
    while queue:
        take(0.001)
    assert queue.depth == 0
    for entry, rows in seen.items():
        assert rows == list(range(gone.get(entry, len(entry.rows))))


@examples
@given(st.lists(st.tuples(counts, st.sampled_from(KINDS)), min_size=1), st.integers(1, 9))
def test_the_depth_is_what_waits_in_images(ask, requests, size):
    queue, asked = FairQueue(size), [ask(rows, kind) for rows, kind in requests]
    for entry in asked:
        queue.add(entry)
        assert queue.depth == sum(other.cost for other in asked[: asked.index(entry) + 1])
    while queue:
        queue.take()
        assert queue.depth == sum(entry.cost for entry in asked)
    assert queue.depth == 0


@examples
@given(st.lists(st.integers(100, 500), min_size=1, max_size=30), st.integers(0, 5), st.integers(1, 9))
def test_large_requests_delay_a_single_one_by_no_more_batches_than_a_turn_of_each_fills(ask, large, earlier, size):
    queue, asked = FairQueue(size), [ask(rows) for rows in large]
    for entry in asked:
        queue.add(entry)
    for _ in range(earlier):
        queue.take()
        queue.spend(0.001)
    single = ask(1)
    queue.add(single)
    batches = 1
    while single not in queue.take().entries:
        queue.spend(0.001)
        batches += 1
    assert batches <= math.ceil((sum(entry.turn for entry in asked) + 1) / size)


costs = st.floats(1e-4, 0.02)
fewer_examples = settings(max_examples=60)


@fewer_examples
@given(st.lists(st.tuples(st.integers(1000, 5000), costs), min_size=2, max_size=6), st.integers(1, 64))
def test_requests_of_kinds_that_take_unlike_time_share_the_time_of_the_device_by_their_weight(ask, requests, size):
    """Over any stretch in which all wait, two requests differ by no more than a batch each, and the longest row."""
    queue = FairQueue(size)
    asked = {ask(rows, Kind(f"kind {number}")): cost for number, (rows, cost) in enumerate(requests)}
    spent, longest = dict.fromkeys(asked, 0.0), 0.0
    for entry in asked:
        queue.add(entry)
    for _ in range(200):
        batch = queue.take()
        (entry,) = batch.entries
        seconds = batch.rows * asked[entry]
        queue.spend(seconds)
        spent[entry] += seconds / entry.turn
        longest = max(longest, seconds / entry.turn)
        if not all(other.waiting for other in asked):
            break
        assert max(spent.values()) - min(spent.values()) <= 2 * longest + LONGEST


@fewer_examples
@given(st.integers(2, 2000), costs, costs, st.integers(1, 12), st.integers(1, 64))
def test_no_stream_of_new_requests_keeps_a_large_one_from_its_share(ask, rows, cost, other_cost, others, size):
    """Each new request is of another kind, and comes as soon as one before it was served."""
    queue, kinds = FairQueue(size), (Kind("other", weight) for weight in cycle(range(1, 65)))
    large = ask(rows, Kind("large"))
    queue.add(large)
    for _ in range(others):
        queue.add(ask(1, next(kinds)))
    passed = had = longest = 0.0
    for _ in range(200):
        batch = queue.take()
        seconds = batch.rows * (cost if large in batch.entries else other_cost)
        queue.spend(seconds)
        passed += seconds
        had += seconds if large in batch.entries else 0
        longest = max(longest, seconds)
        if not large.waiting:
            break
        for entry in batch.entries:
            if entry is not large:
                queue.add(ask(1, next(kinds)))
        share = large.turn / (large.turn + others)
        assert had >= share * passed - large.turn * (2 * longest + LONGEST)


def test_a_kind_of_long_batches_gets_as_much_time_as_one_of_short_batches_and_not_as_many_turns(ask):
    queue, cost = FairQueue(16), {"encode": 0.0001, "decode": 0.001}
    for operation in cost:
        queue.add(ask(4000, Kind(operation)))
    spent = dict.fromkeys(cost, 0.0)
    for _ in range(100):
        batch = queue.take()
        seconds = batch.rows * cost[batch.kind.operation]
        queue.spend(seconds)
        spent[batch.kind.operation] += seconds
    assert spent["encode"] == pytest.approx(spent["decode"], rel=0.1)


def test_a_large_request_among_many_kinds_takes_no_turn_of_each_kind_for_each_of_its_batches(ask):
    """64 clients that ask for single rows of 64 kinds, and one that asks for 130 rows: it waits for some rounds."""
    queue, weights = FairQueue(64, pace=lambda _: BatchPolicy(16)), count()
    large, round_of_all = ask(130, Kind("large")), sum(0.00025 * weight for weight in range(1, 65))

    def another() -> QueuedRequest:
        return ask(1, Kind("score", 1 + next(weights) % 64))

    for entry in [large, *(another() for _ in range(64))]:
        queue.add(entry)
    passed = 0.0
    while large.waiting:
        batch = queue.take()
        seconds = batch.rows * batch.kind.weight * 0.00025
        queue.spend(seconds)
        passed += seconds
        for entry in batch.entries:
            if entry is not large:
                queue.add(another())
    assert passed < 2 * round_of_all  # in turns of kinds it were nine


def known_costs(ask: Ask, queue: FairQueue, **seconds: float) -> None:
    """Let the queue see what a row of each operation takes."""
    for operation, cost in seconds.items():
        queue.add(ask(1, Kind(operation)))
        queue.take()
        queue.spend(cost)


def test_a_request_of_little_work_goes_before_many_of_much_work_that_came_earlier(ask):
    queue = FairQueue(1)
    known_costs(ask, queue, encode=0.0001, score=0.02)
    for _ in range(20):
        queue.add(ask(1, Kind("score")))
    queue.add(ask(1, Kind("encode")))
    assert queue.take().kind.operation == "encode"


def test_a_row_of_seconds_is_served_while_requests_of_little_work_arrive_without_end(ask):
    queue = FairQueue(1)
    known_costs(ask, queue, encode=0.001, score=5.0)
    queue.add(ask(1, Kind("score")))
    for _ in range(4):
        queue.add(ask(1, Kind("encode")))
    passed = 0.0
    while (batch := queue.take()).kind.operation == "encode":
        queue.spend(0.001)
        passed += 0.001
        queue.add(ask(1, Kind("encode")))
    assert batch.kind.operation == "score"
    assert passed <= 5 * LONGEST + 0.01


def test_while_the_clock_of_the_system_stands_still_kinds_take_turns(ask):
    queue = FairQueue(4)
    for kind in KINDS[:2]:
        queue.add(ask(40, kind))
    turns = []
    for _ in range(10):
        turns.append(queue.take().kind)
        queue.spend(0.0)
    assert turns.count(KINDS[0]) == turns.count(KINDS[1]) == 5


def test_fifty_thousand_requests_that_leave_last_come_first_are_removed_in_no_time_that_matters(ask):
    queue = FairQueue(8)
    asked = [ask(1) for _ in range(50_000)]
    for entry in asked:
        queue.add(entry)
    began = time.monotonic()
    for entry in reversed(asked):
        queue.remove(entry)
    assert time.monotonic() - began < 5  # in quadratic time it were a minute
    assert (queue.depth, bool(queue)) == (0, False)


def test_requests_that_leave_again_and_again_leave_nothing_in_the_queue(ask):
    queue, entry = FairQueue(8), ask(1)
    queue.add(ask(1))

    def come_and_go(times: int) -> None:
        for _ in range(times):
            queue.add(entry)
            queue.remove(entry)

    come_and_go(1000)
    tracemalloc.start()
    come_and_go(20_000)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 10_000
    assert queue.depth == 1


@examples
@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=6), st.integers(1, 4))
def test_kinds_take_turns(ask, arrivals, size):
    queue = FairQueue(size)
    for kind in arrivals:
        queue.add(ask(40, kind))
    turns = list(dict.fromkeys(arrivals))
    assert [queue.take().kind for _ in range(3 * len(turns))] == turns * 3


@examples
@given(st.lists(st.sampled_from(KINDS[:2])), st.integers(1, 4), paces)
def test_single_requests_of_one_kind_are_served_in_order_of_arrival(ask, arrivals, size, pace):
    queue, asked = FairQueue(size, pace=lambda _: pace), [ask(1, kind) for kind in arrivals]
    for entry in asked:
        queue.add(entry)
    served = []
    while queue:
        served.extend(queue.take().entries)
    for kind in KINDS[:2]:
        assert [e for e in served if e.kind == kind] == [e for e in asked if e.kind == kind]


def test_who_has_left_or_is_too_late_is_dropped_before_the_device_works_for_him(ask):
    queue, left, late, here = FairQueue(8), ask(5), ask(5, seconds=0), ask(1)
    for entry in (left, late, here):
        queue.add(entry)
    left.future.cancel()
    assert queue.take().entries == [here]
    assert (queue.depth, bool(queue)) == (0, False)


def test_a_batch_of_the_dead_is_empty(ask):
    queue = FairQueue(8)
    queue.add(ask(5, seconds=0))
    assert queue.take().entries == []
    assert not queue


def test_without_a_window_no_batch_is_patient_and_with_one_only_a_full_batch_is_not(ask):
    hasty, patient = FairQueue(4), FairQueue(4, max_delay=1000)
    for queue in (hasty, patient):
        queue.add(ask(3))
    assert hasty.patience() <= 0 < patient.patience() <= 1000
    patient.add(ask(1))
    assert patient.patience() == 0
    assert (hasty.take().dispatch, patient.take().dispatch) == ("free", "full")
    patient.add(ask(1))
    assert patient.take().dispatch == "window"


def test_one_row_is_alone_where_nobody_else_waits(ask):
    queue = FairQueue(4)
    for rows, others in ((1, []), (2, []), (1, [KINDS[0]]), (1, [KINDS[1]])):
        for entry in [ask(rows), *(ask(4, kind) for kind in others)]:
            queue.add(entry)
        batch = queue.take()
        assert batch.alone == (batch.rows == 1 and not queue)
        assert batch.alone == (rows == 1 and not others)
        queue.clear()


def test_a_full_batch_does_not_wait_for_the_window_of_another_kind(ask):
    queue = FairQueue(4, max_delay=1000)
    queue.add(ask(1, KINDS[0]))
    queue.add(ask(4, KINDS[1]))
    assert queue.patience() == 0
    assert queue.take().kind == KINDS[1]
    assert 0 < queue.patience() <= 1000


def test_clearing_gives_back_all_that_waited(ask):
    queue, asked = FairQueue(4), [ask(9, kind) for kind in KINDS]
    for entry in asked:
        queue.add(entry)
    queue.take()
    assert set(queue.clear()) == set(asked)
    assert (queue.depth, bool(queue)) == (0, False)
