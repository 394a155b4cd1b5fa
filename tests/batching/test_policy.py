"""Batches are as large as was quickest when they were warmed."""

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from app.batching.policy import CPU_INLINE_SECONDS, MIN_INLINE_ROWS, BatchPolicy

examples = settings(max_examples=200)
shapes = st.integers(1, 40).map(lambda largest: sorted({*(n for n in (1, 2, 4, 8, 16, 32) if n < largest), largest}))
times = st.lists(st.floats(1e-6, 1.0), min_size=7, max_size=7).map(sorted)
measured = st.builds(lambda sizes, seconds: dict(zip(sizes, seconds, strict=False)), shapes, times)


def padded(seconds: dict[int, float], rows: int) -> float:
    """What a batch of so many rows takes."""
    return seconds[min(shape for shape in seconds if shape >= rows)]


@examples
@given(measured, st.integers(0, 60))
def test_batch_sizes_minimize_the_time_until_all_rows_are_done(seconds, waiting):
    @cache
    def soonest(rows: int) -> float:
        return min((padded(seconds, n) + soonest(rows - n) for n in range(1, rows + 1)), default=0.0)

    policy, rows, total = BatchPolicy.from_batch_timings(seconds), min(waiting, max(seconds)), 0.0
    while rows:
        batch = policy.rows(rows)
        assert 1 <= batch <= rows
        total, rows = total + padded(seconds, batch), rows - batch
    assert total <= soonest(min(waiting, max(seconds))) * (1 + 1e-9)


def test_no_batch_is_padded_if_time_is_proportional_to_rows():
    policy = BatchPolicy.from_batch_timings({1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0})
    assert [policy.rows(n) for n in (1, 3, 5, 7, 8, 9)] == [1, 2, 4, 4, 8, 8]


def test_all_rows_share_a_batch_if_time_does_not_depend_on_rows():
    policy = BatchPolicy.from_batch_timings({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0})
    assert [policy.rows(n) for n in range(1, 10)] == [1, 2, 3, 4, 5, 6, 7, 8, 8]


@examples
@given(measured)
def test_a_policy_is_inline_only_for_short_batches_of_enough_rows(seconds):
    policy = BatchPolicy.from_batch_timings(seconds, inline_limit=0.1)
    if policy.inline:
        assert policy.max_rows >= MIN_INLINE_ROWS
        assert seconds[policy.max_rows] <= 0.1
    else:
        assert all(seconds[rows] > 0.1 for rows in seconds if rows >= MIN_INLINE_ROWS)


def test_inline_batches_of_single_rows_take_half_of_the_inline_limit():
    assert BatchPolicy.from_row_timing(CPU_INLINE_SECONDS / 11, CPU_INLINE_SECONDS) == BatchPolicy(5, inline=True)
    assert (
        BatchPolicy.from_row_timing(CPU_INLINE_SECONDS / 5, CPU_INLINE_SECONDS)
        == BatchPolicy.from_row_timing(CPU_INLINE_SECONDS / 11)
        == BatchPolicy()
    )


@examples
@given(st.floats(0, 100), st.floats(0, 1))
def test_any_timing_of_single_rows_gives_a_valid_policy(seconds, quick):
    policy = BatchPolicy.from_row_timing(seconds, quick)
    assert policy.rows(1) == 1
    assert policy.max_rows >= MIN_INLINE_ROWS


@examples
@given(shapes, st.integers(0, 7))
def test_sizes_that_were_measured_as_zero_seconds_give_a_valid_policy(sizes, measured_as_zero):
    policy = BatchPolicy.from_batch_timings(
        {size: 0.0 if n < measured_as_zero else 0.015 for n, size in enumerate(sizes)}, CPU_INLINE_SECONDS
    )
    assert all(1 <= policy.rows(waiting) <= waiting for waiting in range(1, 50))
