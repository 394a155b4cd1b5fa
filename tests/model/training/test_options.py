"""Tests of training options: errors name the invalid option."""

from dataclasses import replace

import pytest

from model.errors import OptionsError
from model.training.options import TrainingOptions

OPTIONS = TrainingOptions(learning_rate=0.01, warmup=10, kl_warmup=4.0, ema=0.99)


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
