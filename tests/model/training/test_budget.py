"""Tests of the budget of time of a training."""

from time import sleep

from model.training.budget import TimeBudget


def test_epochs_are_added_while_there_is_time_for_them() -> None:
    budget = TimeBudget(3600)
    assert budget.epochs_after(1) > 1000


def test_time_that_is_spent_before_counts() -> None:
    budget = TimeBudget(3600, spent=3601)
    assert budget.epochs_after(1) == 1


def test_no_epoch_is_added_when_the_time_is_up() -> None:
    budget = TimeBudget(0.01)
    sleep(0.02)
    assert budget.epochs_after(3) == 3


def test_a_slow_epoch_lowers_the_number_of_epochs() -> None:
    budget = TimeBudget(3600)
    sleep(0.001)
    before = budget.epochs_after(1)
    sleep(0.1)
    assert 2 <= budget.epochs_after(2) < before
