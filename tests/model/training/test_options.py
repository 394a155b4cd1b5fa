"""Tests of training options: schedules, and errors that name the invalid option."""

from dataclasses import replace
from itertools import pairwise

import pytest

from model.training.options import OptionsError, TrainingOptions

OPTIONS = TrainingOptions(learning_rate=0.01, warmup=10, kl_warmup=4.0, ema=0.99)


def test_the_learning_rate_rises_in_the_warm_up_and_falls_to_zero() -> None:
    rates = [OPTIONS.learning_rate_at(step, 1000) for step in range(1001)]
    assert rates[0] == pytest.approx(0.001)
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[500] == pytest.approx(0.005)
    assert rates[1000] == pytest.approx(0)


def test_a_constant_learning_rate_stays_after_the_warm_up() -> None:
    constant = replace(OPTIONS, schedule="constant")
    assert {constant.learning_rate_at(step, 1000) for step in range(9, 1000)} == {0.01}


def test_the_kl_weight_is_1_after_its_warm_up() -> None:
    assert [OPTIONS.kl_weight(epoch) for epoch in (0, 1, 2, 4, 40)] == [0, 0.25, 0.5, 1, 1]
    assert replace(OPTIONS, kl_warmup=0).kl_weight(0) == 1


def test_the_ema_decay_rises_to_its_maximum() -> None:
    decays = [OPTIONS.ema_decay(step) for step in range(2000)]
    assert decays[0] == pytest.approx(0.1)
    assert all(a <= b for a, b in pairwise(decays))
    assert decays[-1] == 0.99


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", -1e-3),
        ("warmup", -1),
        ("schedule", "linear"),
        ("kl_warmup", -1.0),
        ("ema", 1.0),
        ("clip", float("inf")),
        ("samples", 0),
        ("binarize", "static"),
        ("holdout", -1),
        ("seed", -1),
        ("seed", 2**64),
        ("precision", "float16"),
    ],
)
def test_an_invalid_option_is_named_with_its_value(option: str, value: object) -> None:
    with pytest.raises(OptionsError, match=rf"^{option}: expected .*, got ") as caught:
        replace(OPTIONS, **{option: value})  # type: ignore[arg-type]
    assert str(caught.value).endswith(repr(value))


def test_options_are_rebuilt_from_their_json() -> None:
    assert TrainingOptions(**OPTIONS.as_dict()) == OPTIONS
