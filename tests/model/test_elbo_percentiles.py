"""Tests of ELBO percentiles, and of the AUROC against scikit-learn."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.checkpoint import METRICS, read_checkpoint
from model.elbo_percentiles import ElboPercentiles, auroc

scores = st.lists(st.floats(-1000, 0), min_size=1, max_size=60).map(np.float64)
RISING = [float(n) for n in range(-150, -49)]


@given(scores, scores)
def test_the_auroc_agrees_with_scikit_learn(positive, negative):
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415  # a second, which other tests do not need

    labels = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    assert auroc(positive, negative) == pytest.approx(roc_auc_score(labels, np.r_[positive, negative]))


@given(
    st.lists(st.floats(-1000, 0, width=32), min_size=1, max_size=60, unique=True).map(np.float32), st.floats(-1e4, 1e3)
)
def test_percentiles_rise_with_the_elbo_from_0_to_100(held_out, elbo):
    reference = ElboPercentiles.from_scores(held_out, {})
    low, here, high = reference.percentile(np.array([elbo - 1, elbo, elbo + 1]))
    assert 0 <= low <= here <= high <= 100
    assert reference.percentile(held_out.min() - 1) == 0
    assert reference.percentile(held_out.max()) == 100


def test_a_percentile_is_the_percentage_of_scores_that_are_no_higher():
    held_out = np.random.default_rng(0).normal(-90, 10, 20_000)
    for elbo in (-120.0, -100.0, -90.0, -75.0):
        assert ElboPercentiles.from_scores(held_out, {}).percentile(elbo) == pytest.approx(
            100 * (held_out <= elbo).mean(), abs=0.5
        )


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        {},
        {"areas": {}},
        {"elbo": RISING[:-1], "areas": {}},
        {"elbo": RISING[::-1], "areas": {}},
        {"elbo": [*RISING[:-1], float("nan")], "areas": {}},
        {"elbo": [*RISING[:-1], "0"], "areas": {}},
        {"elbo": RISING, "areas": 3},
        {"elbo": RISING, "areas": {}, "split": 3},
        {"elbo": RISING, "images": 0},
        {"elbo": RISING, "images": "10"},
        {"elbo": RISING, "areas": {"letters": "0.5"}},
        {"elbo": RISING, "areas": {"letters": float("nan")}},
    ],
)
def test_an_invalid_reference_is_left_out_with_a_warning(digits_model, tmp_path: Path, values):
    (tmp_path / METRICS).write_text(json.dumps({"reference": values}).replace("NaN", "null"))
    for file in digits_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.reference is None
    assert "reference" not in checkpoint.metrics.entries
    (warning,) = checkpoint.warnings
    assert re.match(rf"{tmp_path / METRICS}: reference: ((elbo|areas|split|images): )?expected", warning)
    assert warning.endswith("; scores have no percentile")


def test_a_reference_needs_only_the_percentiles_and_accepts_integers(digits_model, tmp_path: Path):
    (tmp_path / METRICS).write_text(json.dumps({"reference": {"elbo": list(range(-150, -49))}}))
    for file in digits_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.warnings == ()
    assert checkpoint.reference.elbo == tuple(RISING)


def test_the_source_names_the_number_of_images_and_the_split():
    assert ElboPercentiles.from_scores(np.arange(1200.0), {}).source == "1,200 images of the data it was evaluated on"
    assert ElboPercentiles(tuple(RISING), split="test split").source == "images of the test split"
