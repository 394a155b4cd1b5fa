"""Options are what they say: beside a trained model its architecture counts, and what contradicts it is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_train import vae

from model.checkpoint import METRICS
from tests.conftest import DIGITS, write

QUICK = "--epochs 1 --batch-size 50 --threads 1 --device cpu"


@pytest.fixture
def data(tmp_path: Path, digits: np.ndarray) -> Path:
    np.save(tmp_path / "digits.npy", digits[:100, 0])
    return tmp_path / "digits.npy"


def kept(folder: Path) -> dict[str, object]:
    options: dict[str, object] = json.loads((folder / METRICS).read_text())["training"]["options"]
    return options


@pytest.mark.parametrize(
    ("likelihood", "told", "binarize"),
    [("bernoulli", "", "dynamic"), ("gaussian", "", "none"), ("gaussian", "--binarize dynamic", "dynamic")],
)
def test_a_trained_model_goes_on_with_the_pixels_of_its_own_likelihood(data, tmp_path, likelihood, told, binarize):
    start = write(tmp_path / "start", replace(DIGITS, likelihood=likelihood))
    result = vae(f"train {QUICK} {told}", "--start", start, "--data", data, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert kept(tmp_path / "run")["binarize"] == binarize
