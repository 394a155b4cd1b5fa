"""The queue keeps every row, in order, once; it is fair between requests and between kinds of work."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.batches import Entry
from app.calls import Call
from app.pace import Pace
from app.queueing import FairQueue, shares


class Kind(NamedTuple):
    operation: str
    weight: int = 1


KINDS = (Kind("encode"), Kind("decode"), Kind("score", 3))
Ask = Callable[..., Entry]
examples = settings(max_examples=150)
counts = st.integers(1, 40)
paces = st.sampled_from([Pace(), Pace(3), Pace.of_shapes({1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0})])


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """`ask(rows)` is a request for so many rows: 0, 1, 2, ..."""
    loop = asyncio.new_event_loop()

    def make(rows: int, kind: Kind = KINDS[0], seconds: float = 1000) -> Entry:
        return Entry(kind, range(rows), Call("id", time.monotonic() + seconds), loop.create_future())

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
    st.just(("take",)),
)


@settings(max_examples=300)
@given(st.lists(actions, max_size=40), st.integers(1, 9), paces)
def test_no_row_is_lost_doubled_or_reordered_whatever_happens(ask, history, size, pace):
    queue, asked, seen, gone = FairQueue(size, pace=lambda _: pace), [], {}, {}

    def take() -> None:
        batch = queue.take()
        assert sum(map(len, batch.parts)) == batch.rows == pace.rows(batch.rows)
        assert batch.rows * batch.kind.weight <= max(size, batch.kind.weight)
        for entry, part in zip(batch.entries, batch.parts, strict=True):
            assert entry.kind == batch.kind
            assert len(part) > 0
            seen[entry].extend(part)

    for action, *details in history:
        if action == "add":
            asked.append(entry := ask(*details))
            seen[entry] = []
            queue.add(entry)
        elif action == "take" and queue:
            take()
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
        take()
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
def test_big_requests_delay_a_single_one_by_no_more_batches_than_it_takes_to_ask_everybody(ask, big, earlier, size):
    queue = FairQueue(size)
    for rows in big:
        queue.add(ask(rows))
    for _ in range(earlier):
        queue.take()
    single = ask(1)
    queue.add(single)
    batches = 1
    while single not in queue.take().entries:
        batches += 1
    assert batches <= math.ceil((len(big) + 1) / size)


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
