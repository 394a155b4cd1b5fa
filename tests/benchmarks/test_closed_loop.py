"""What the benchmark makes of the load generator's numbers."""

import pytest

from benchmarks.closed_loop import rate


def test_many_answers_are_counted():
    assert rate({"requests": 900, "seconds": 2, "mean_ms": 9, "p50_ms": 8, "p99_ms": 12}, 4) == 450


def test_a_low_rate_is_computed_from_the_latencies_if_clients_are_served_equally():
    found = {"requests": 8, "seconds": 6, "mean_ms": 2000, "p50_ms": 2000, "p99_ms": 2100}
    assert rate(found, 4) == pytest.approx(2)  # the third round of four was nearly done


def test_a_server_that_answers_some_and_lets_others_wait_is_rated_by_its_answers():
    found = {"requests": 60, "seconds": 2, "mean_ms": 280, "p50_ms": 230, "p99_ms": 1800}
    assert rate(found, 64) == 30


def test_a_server_that_answers_nobody_does_nothing():
    assert rate({"requests": 0, "seconds": 2, "mean_ms": 0, "p50_ms": 0, "p99_ms": 0}, 64) == 0
