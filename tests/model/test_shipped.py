"""Tests of the names of shipped models."""

from pathlib import Path

import pytest

from model.formats import format_of, read_model
from model.shipped import CHECKPOINTS, find_model, shipped_models


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", shipped_models())
def test_the_name_of_a_shipped_model_stands_for_its_folder(name: str) -> None:
    assert find_model(Path(name)) == CHECKPOINTS / name
    assert format_of(find_model(Path(name))) == "native"
    assert read_model(Path(name)).model.spec.name == name


def test_a_folder_of_the_same_name_in_the_current_directory_has_priority(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    assert find_model(Path("mnist")) == Path("mnist")


@pytest.mark.parametrize("path", ["other", "runs/mnist", "/mnist", "hf:lab/mnist", "..", "."])
def test_other_paths_stay_as_they_are(path: str) -> None:
    assert find_model(Path(path)) == Path(path)
