"""Tests of the schedules of a training."""

from dataclasses import replace
from itertools import pairwise

import pytest

from model.training.options import TrainingOptions
from model.training.schedules import ema_decay, kl_weight, learning_rate

OPTIONS = TrainingOptions(learning_rate=0.01, warmup=10, kl_warmup=4.0, ema=0.99)


def test_the_learning_rate_rises_in_the_warm_up_and_falls_to_zero() -> None:
    rates = [learning_rate(OPTIONS, step, 1000) for step in range(1001)]
    assert rates[0] == pytest.approx(0.001)
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[500] == pytest.approx(0.005)
    assert rates[1000] == pytest.approx(0)


def test_a_constant_learning_rate_stays_after_the_warm_up() -> None:
    constant = replace(OPTIONS, schedule="constant")
    assert {learning_rate(constant, step, 1000) for step in range(9, 1000)} == {0.01}


def test_the_kl_weight_is_1_after_its_warm_up() -> None:
    assert [kl_weight(OPTIONS, epoch) for epoch in (0, 1, 2, 4, 40)] == [0, 0.25, 0.5, 1, 1]
    assert kl_weight(replace(OPTIONS, kl_warmup=0), 0) == 1


def test_beta_is_the_kl_weight_after_the_warm_up() -> None:
    assert [kl_weight(replace(OPTIONS, beta=3.0), epoch) for epoch in (0, 2, 4, 40)] == [0, 1.5, 3, 3]


def test_the_ema_decay_rises_to_its_maximum() -> None:
    decays = [ema_decay(OPTIONS, step) for step in range(2000)]
    assert decays[0] == pytest.approx(0.1)
    assert all(a <= b for a, b in pairwise(decays))
    assert decays[-1] == 0.99
