"""The plan of a training: what is announced before the first step."""

from pathlib import Path

import pytest

from app.cli.options import Hardware, TrainingRun
from app.cli.plan import new_plan

FEW = "epochs are few for 540 images, and may leave reconstructions blank; by default it would be 200, in about "


@pytest.mark.parametrize(
    ("epochs", "minutes", "is_started", "is_announced"),
    [(99, None, False, True), (100, None, False, False), (None, 0.001, False, True), (1, None, True, False)],
)
def test_a_training_that_is_far_shorter_than_by_default_is_announced(
    data: Path, digits_model: Path, tmp_path: Path, capsys, epochs, minutes, is_started, is_announced
) -> None:
    run = TrainingRun(data, tmp_path / "run", False, False, False, digits_model if is_started else None, frozenset())
    values = {"epochs": epochs, "batch_size": 50, "seed": 0}
    new_plan(run, values, Hardware("cpu", 1), minutes)
    assert (FEW in capsys.readouterr().err) == is_announced
