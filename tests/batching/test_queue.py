"""The queue returns every row once and in order, and is fair between requests and between keys."""

import asyncio
import math
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count, cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.batching.policy import BatchPolicy
from app.batching.queue import MAX_ROW_SECONDS, FairQueue, fair_shares
from app.batching.requests import QueuedRequest
from app.context import RequestContext


@dataclass(frozen=True)
class Key:
    operation: str
    weight: int = 1
    policy: BatchPolicy = field(default=BatchPolicy(), compare=False)


KEYS = (Key("encode"), Key("decode"), Key("score", 3))
MakeRequest = Callable[..., QueuedRequest]
examples = settings(max_examples=150)
counts = st.integers(1, 40)
policies = st.sampled_from(
    [BatchPolicy(), BatchPolicy(3), BatchPolicy.from_batch_timings({1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0})]
)


@pytest.fixture(scope="module")
def make_request() -> Iterator[MakeRequest]:
    """`make_request(rows)` is a request for so many rows: 0, 1, 2, ..."""
    loop = asyncio.new_event_loop()

    def make(rows: int, key: Key = KEYS[0], seconds: float = 1000) -> QueuedRequest:
        return QueuedRequest(key, range(rows), RequestContext("id", time.monotonic() + seconds), loop.create_future())

    yield make
    loop.close()


@examples
@given(st.lists(counts, min_size=1), st.integers(0, 100))
def test_fair_shares_fill_the_batch_and_exceed_no_request(waiting, rows):
    given = fair_shares(waiting, rows)
    assert sum(given) == min(rows, sum(waiting))
    assert all(0 <= share <= wanted for share, wanted in zip(given, waiting, strict=True))


@examples
@given(st.lists(counts, min_size=1), st.integers(0, 100))
def test_a_request_that_gets_less_than_it_needs_gets_the_largest_share(waiting, rows):
    given = fair_shares(waiting, rows)
    assert all(share >= max(given) - 1 for share, wanted in zip(given, waiting, strict=True) if share < wanted)


actions = st.one_of(
    st.tuples(st.just("add"), counts, st.sampled_from(KEYS)),
    st.tuples(st.sampled_from(["remove", "cancel"]), st.integers(0, 30)),
    st.tuples(st.just("take"), st.sampled_from([0.0, 0.001, 1.0])),
)


@settings(max_examples=300)
@given(st.lists(actions, max_size=40), st.integers(1, 9), policies)
def test_no_row_is_lost_duplicated_or_reordered(make_request, history, size, policy):
    queue, requests_made, seen, gone = FairQueue(size), [], {}, {}

    def take(seconds: float) -> None:
        batch = queue.take()
        assert sum(map(len, batch.parts)) == batch.rows == policy.rows(batch.rows)
        assert batch.rows * batch.key.weight <= max(size, batch.key.weight)
        for request, part in zip(batch.requests, batch.parts, strict=True):
            assert request.key == batch.key
            assert len(part) > 0
            seen[request].extend(part)
        queue.charge(batch, seconds)

    for action, *details in history:
        if action == "add":
            rows, key = details
            requests_made.append(request := make_request(rows, replace(key, policy=policy)))
            seen[request] = []
            queue.add(request)
        elif action == "take" and queue:
            take(*details)
        elif action in ("remove", "cancel") and requests_made:
            request = requests_made[details[0] % len(requests_made)]
            request.future.cancel()
            gone.setdefault(request, len(seen[request]))
            if action == "remove":
                queue.remove(request)
                queue.remove(request)  # a second time, nothing happens
        alive = sum(request.cost for request in requests_made if not request.future.done())
        cancelled = sum(request.cost for request in requests_made if request.future.done())
        assert alive <= queue.depth <= alive + cancelled
    while queue:
        take(0.001)
    assert queue.depth == 0
    for request, rows in seen.items():
        assert rows == list(range(gone.get(request, len(request.rows))))


@examples
@given(st.lists(st.tuples(counts, st.sampled_from(KEYS)), min_size=1), st.integers(1, 9))
def test_the_depth_is_the_cost_of_all_waiting_requests(make_request, requests, size):
    queue, requests_made = FairQueue(size), [make_request(rows, key) for rows, key in requests]
    for request in requests_made:
        queue.add(request)
        assert queue.depth == sum(other.cost for other in requests_made[: requests_made.index(request) + 1])
    while queue:
        queue.take()
        assert queue.depth == sum(request.cost for request in requests_made)
    assert queue.depth == 0


@examples
@given(st.lists(st.integers(100, 500), min_size=1, max_size=30), st.integers(0, 5), st.integers(1, 9))
def test_large_requests_delay_a_single_row_by_at_most_one_turn_of_each(make_request, large, earlier, size):
    queue, requests_made = FairQueue(size), [make_request(rows) for rows in large]
    for request in requests_made:
        queue.add(request)
    for _ in range(earlier):
        queue.charge(queue.take(), 0.001)
    single = make_request(1)
    queue.add(single)
    batches = 1
    while single not in (batch := queue.take()).requests:
        queue.charge(batch, 0.001)
        batches += 1
    assert batches <= math.ceil((sum(request.turn for request in requests_made) + 1) / size)


costs = st.floats(1e-4, 0.02)
fewer_examples = settings(max_examples=60)


@fewer_examples
@given(st.lists(st.tuples(st.integers(1000, 5000), costs), min_size=2, max_size=6), st.integers(1, 64))
def test_requests_share_device_time_by_weight_whatever_their_rows_cost(make_request, requests, size):
    """Over any stretch in which all wait, two requests differ by no more than a batch each, and the longest row."""
    queue = FairQueue(size)
    requests_made = {make_request(rows, Key(f"key {number}")): cost for number, (rows, cost) in enumerate(requests)}
    spent, longest = dict.fromkeys(requests_made, 0.0), 0.0
    for request in requests_made:
        queue.add(request)
    for _ in range(200):
        batch = queue.take()
        (request,) = batch.requests
        seconds = batch.rows * requests_made[request]
        queue.charge(batch, seconds)
        spent[request] += seconds / request.turn
        longest = max(longest, seconds / request.turn)
        if not all(other.remaining for other in requests_made):
            break
        assert max(spent.values()) - min(spent.values()) <= 2 * longest + MAX_ROW_SECONDS


@fewer_examples
@given(st.integers(2, 2000), costs, costs, st.integers(1, 12), st.integers(1, 64))
def test_a_stream_of_new_requests_does_not_starve_a_large_one(make_request, rows, cost, other_cost, others, size):
    """Each new request is of another key, and comes as soon as one before it was served."""
    queue, keys = FairQueue(size), (Key("other", weight) for weight in cycle(range(1, 65)))
    large = make_request(rows, Key("large"))
    queue.add(large)
    for _ in range(others):
        queue.add(make_request(1, next(keys)))
    passed = had = longest = 0.0
    for _ in range(200):
        batch = queue.take()
        seconds = batch.rows * (cost if large in batch.requests else other_cost)
        queue.charge(batch, seconds)
        passed += seconds
        had += seconds if large in batch.requests else 0
        longest = max(longest, seconds)
        if not large.remaining:
            break
        for request in batch.requests:
            if request is not large:
                queue.add(make_request(1, next(keys)))
        share = large.turn / (large.turn + others)
        assert had >= share * passed - large.turn * (2 * longest + MAX_ROW_SECONDS)


def test_keys_with_long_and_short_batches_get_equal_time(make_request):
    queue, cost = FairQueue(16), {"encode": 0.0001, "decode": 0.001}
    for operation in cost:
        queue.add(make_request(4000, Key(operation)))
    spent = dict.fromkeys(cost, 0.0)
    for _ in range(100):
        batch = queue.take()
        seconds = batch.rows * cost[batch.key.operation]
        queue.charge(batch, seconds)
        spent[batch.key.operation] += seconds
    assert spent["encode"] == pytest.approx(spent["decode"], rel=0.1)


def test_a_large_request_among_many_keys_waits_for_few_rounds(make_request):
    """64 clients that request single rows of 64 keys, and one request of 130 rows."""
    queue, weights = FairQueue(64), count()
    large, round_of_all = (
        make_request(130, Key("large", policy=BatchPolicy(16))),
        sum(0.00025 * weight for weight in range(1, 65)),
    )

    def another() -> QueuedRequest:
        return make_request(1, Key("score", 1 + next(weights) % 64, BatchPolicy(16)))

    for request in [large, *(another() for _ in range(64))]:
        queue.add(request)
    passed = 0.0
    while large.remaining:
        batch = queue.take()
        seconds = batch.rows * batch.key.weight * 0.00025
        queue.charge(batch, seconds)
        passed += seconds
        for request in batch.requests:
            if request is not large:
                queue.add(another())
    assert passed < 2 * round_of_all  # in turns of keys it were nine


def known_costs(make_request: MakeRequest, queue: FairQueue, **seconds: float) -> None:
    """Let the queue see what a row of each operation takes."""
    for operation, cost in seconds.items():
        queue.add(make_request(1, Key(operation)))
        queue.charge(queue.take(), cost)


def test_a_cheap_request_precedes_expensive_ones_that_arrived_earlier(make_request):
    queue = FairQueue(1)
    known_costs(make_request, queue, encode=0.0001, score=0.02)
    for _ in range(20):
        queue.add(make_request(1, Key("score")))
    queue.add(make_request(1, Key("encode")))
    assert queue.take().key.operation == "encode"


def test_a_row_of_seconds_is_not_starved_by_cheap_requests(make_request):
    queue = FairQueue(1)
    known_costs(make_request, queue, encode=0.001, score=5.0)
    queue.add(make_request(1, Key("score")))
    for _ in range(4):
        queue.add(make_request(1, Key("encode")))
    passed = 0.0
    while (batch := queue.take()).key.operation == "encode":
        queue.charge(batch, 0.001)
        passed += 0.001
        queue.add(make_request(1, Key("encode")))
    assert batch.key.operation == "score"
    assert passed <= 5 * MAX_ROW_SECONDS + 0.01


def test_keys_take_turns_while_the_system_clock_stands_still(make_request):
    queue = FairQueue(4)
    for key in KEYS[:2]:
        queue.add(make_request(40, key))
    turns = []
    for _ in range(10):
        batch = queue.take()
        turns.append(batch.key)
        queue.charge(batch, 0.0)
    assert turns.count(KEYS[0]) == turns.count(KEYS[1]) == 5


def test_removing_fifty_thousand_requests_in_reverse_order_takes_linear_time(make_request):
    queue = FairQueue(8)
    requests_made = [make_request(1) for _ in range(50_000)]
    for request in requests_made:
        queue.add(request)
    began = time.monotonic()
    for request in reversed(requests_made):
        queue.remove(request)
    assert time.monotonic() - began < 5  # in quadratic time it were a minute
    assert (queue.depth, bool(queue)) == (0, False)


def test_adding_and_removing_requests_leaks_no_memory(make_request):
    queue, request = FairQueue(8), make_request(1)
    queue.add(make_request(1))

    def come_and_go(times: int) -> None:
        for _ in range(times):
            queue.add(request)
            queue.remove(request)

    come_and_go(1000)
    tracemalloc.start()
    come_and_go(20_000)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 10_000
    assert queue.depth == 1


@examples
@given(st.lists(st.sampled_from(KEYS), min_size=1, max_size=6), st.integers(1, 4))
def test_keys_take_turns(make_request, arrivals, size):
    queue = FairQueue(size)
    for key in arrivals:
        queue.add(make_request(40, key))
    turns = list(dict.fromkeys(arrivals))
    assert [queue.take().key for _ in range(3 * len(turns))] == turns * 3


@examples
@given(st.lists(st.sampled_from(KEYS[:2])), st.integers(1, 4), policies)
def test_single_rows_of_one_key_are_served_in_order_of_arrival(make_request, arrivals, size, policy):
    queue, requests_made = FairQueue(size), [make_request(1, replace(key, policy=policy)) for key in arrivals]
    for request in requests_made:
        queue.add(request)
    served = []
    while queue:
        served.extend(queue.take().requests)
    for key in KEYS[:2]:
        assert [e for e in served if e.key == key] == [e for e in requests_made if e.key == key]


def test_cancelled_and_expired_requests_are_dropped(make_request):
    queue, cancelled, late, here = FairQueue(8), make_request(5), make_request(5, seconds=0), make_request(1)
    for request in (cancelled, late, here):
        queue.add(request)
    cancelled.future.cancel()
    assert queue.take().requests == [here]
    assert (queue.depth, bool(queue)) == (0, False)


def test_a_batch_of_expired_requests_is_empty(make_request):
    queue = FairQueue(8)
    queue.add(make_request(5, seconds=0))
    assert queue.take().requests == []
    assert not queue


def test_a_batch_delay_applies_to_batches_that_are_not_full(make_request):
    hasty, patient = FairQueue(4), FairQueue(4, max_delay=1000)
    for queue in (hasty, patient):
        queue.add(make_request(3))
    assert hasty.seconds_until_dispatch() <= 0 < patient.seconds_until_dispatch() <= 1000
    patient.add(make_request(1))
    assert patient.seconds_until_dispatch() == 0
    assert (hasty.take().trigger, patient.take().trigger) == ("idle", "full")
    patient.add(make_request(1))
    assert patient.take() is None
    assert patient.take(flush=True).trigger == "timeout"


def test_a_batch_is_single_if_it_has_one_row_and_no_other_waits(make_request):
    queue = FairQueue(4)
    for rows, others in ((1, []), (2, []), (1, [KEYS[0]]), (1, [KEYS[1]])):
        for request in [make_request(rows), *(make_request(4, key) for key in others)]:
            queue.add(request)
        batch = queue.take()
        assert batch.single == (batch.rows == 1 and not queue)
        assert batch.single == (rows == 1 and not others)
        queue.clear()


def test_a_full_batch_does_not_wait_for_the_delay_of_another_key(make_request):
    queue = FairQueue(4, max_delay=1000)
    queue.add(make_request(1, KEYS[0]))
    queue.add(make_request(4, KEYS[1]))
    assert queue.seconds_until_dispatch() == 0
    assert queue.take().key == KEYS[1]
    assert 0 < queue.seconds_until_dispatch() <= 1000


def test_clearing_returns_all_waiting_requests(make_request):
    queue, requests_made = FairQueue(4), [make_request(9, key) for key in KEYS]
    for request in requests_made:
        queue.add(request)
    queue.take()
    assert set(queue.clear()) == set(requests_made)
    assert (queue.depth, bool(queue)) == (0, False)
