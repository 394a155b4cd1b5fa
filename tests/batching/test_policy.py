"""Batches are as large as was quickest when they were warmed."""

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from app.batching.policy import QUICK, WORTH_A_BATCH, BatchPolicy

examples = settings(max_examples=200)
shapes = st.integers(1, 40).map(lambda largest: sorted({*(n for n in (1, 2, 4, 8, 16, 32) if n < largest), largest}))
times = st.lists(st.floats(1e-6, 1.0), min_size=7, max_size=7).map(sorted)
measured = st.builds(lambda sizes, seconds: dict(zip(sizes, seconds, strict=False)), shapes, times)


def padded(seconds: dict[int, float], rows: int) -> float:
    """What a batch of so many rows takes."""
    return seconds[min(shape for shape in seconds if shape >= rows)]


@examples
@given(measured, st.integers(0, 60))
def test_rows_that_wait_are_done_as_soon_as_by_any_division_into_batches(seconds, waiting):
    @cache
    def soonest(rows: int) -> float:
        return min((padded(seconds, n) + soonest(rows - n) for n in range(1, rows + 1)), default=0.0)

    pace, rows, total = BatchPolicy.of_shapes(seconds), min(waiting, max(seconds)), 0.0
    while rows:
        batch = pace.rows(rows)
        assert 1 <= batch <= rows
        total, rows = total + padded(seconds, batch), rows - batch
    assert total <= soonest(min(waiting, max(seconds))) * (1 + 1e-9)


def test_where_a_row_costs_the_same_in_any_batch_no_batch_is_filled_up_with_nothing():
    pace = BatchPolicy.of_shapes({1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0})
    assert [pace.rows(n) for n in (1, 3, 5, 7, 8, 9)] == [1, 2, 4, 4, 8, 8]


def test_where_a_batch_costs_the_same_however_many_rows_it_has_all_go_together():
    pace = BatchPolicy.of_shapes({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0})
    assert [pace.rows(n) for n in range(1, 10)] == [1, 2, 3, 4, 5, 6, 7, 8, 8]


@examples
@given(measured)
def test_the_event_loop_runs_only_what_is_quick_and_worth_a_batch(seconds):
    pace = BatchPolicy.of_shapes(seconds, quick=0.1)
    if pace.at_once:
        assert pace.most >= WORTH_A_BATCH
        assert seconds[pace.most] <= 0.1
    else:
        assert all(seconds[rows] > 0.1 for rows in seconds if rows >= WORTH_A_BATCH)


def test_rows_one_by_one_are_as_many_as_half_of_the_time_is_enough_for():
    assert BatchPolicy.of_rows(QUICK / 11, QUICK) == BatchPolicy(5, at_once=True)
    assert BatchPolicy.of_rows(QUICK / 5, QUICK) == BatchPolicy.of_rows(QUICK / 11) == BatchPolicy()


@examples
@given(st.floats(0, 100), st.floats(0, 1))
def test_rows_one_by_one_have_a_pace_whatever_the_clock_has_measured(seconds, quick):
    pace = BatchPolicy.of_rows(seconds, quick)
    assert pace.rows(1) == 1
    assert pace.most >= WORTH_A_BATCH


@examples
@given(shapes, st.integers(0, 7))
def test_a_clock_that_has_measured_nothing_for_some_shapes_gives_a_pace(sizes, measured_as_zero):
    pace = BatchPolicy.of_shapes({size: 0.0 if n < measured_as_zero else 0.015 for n, size in enumerate(sizes)}, QUICK)
    assert all(1 <= pace.rows(waiting) <= waiting for waiting in range(1, 50))
