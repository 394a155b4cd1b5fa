"""Progress bars and tables on a terminal."""

import re

import pytest

from app.cli.progress import print_figures, training_bar
from model.training.options import TrainingOptions
from model.training.trainer import Progress


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")


def shown(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_the_bar_of_a_long_training_fits_into_80_columns(terminal, capsys):
    with training_bar(TrainingOptions(epochs=600)) as watch:
        watch(
            Progress(
                123,
                600,
                45,
                469,
                elbo=-28123.45,
                reconstruction=-27000.0,
                kl=1123.45,
                objective=-28123.45,
                images_per_second=23456.0,
            )
        )
    line = shown(capsys.readouterr().out).split("\r")[-1].splitlines()[0]
    assert re.fullmatch(r"epoch 123/600 [━╸╺ ]{10,} -:--:-- elbo -28123.45  kl 1123.45  23456 images/s *", line)
    assert len(line) <= 80


@pytest.mark.parametrize("path", ["runs[v2]/d.npz", "q[/b].npz", "[red]x"])
def test_figures_are_printed_without_markup(capsys, path):
    print_figures({"command": path, "elbo": -1.0})
    out = capsys.readouterr().out
    assert path in out
    assert "-1.0000" in out
