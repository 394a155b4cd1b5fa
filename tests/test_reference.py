"""A percentile is a place among held-out scores, and the area under the ROC curve is that of scikit-learn."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from model.checkpoint import METRICS, CheckpointError, read_checkpoint
from model.reference import Reference, area

scores = st.lists(st.floats(-1000, 0), min_size=1, max_size=60).map(np.float64)
RISING = [float(n) for n in range(-150, -49)]


@given(scores, scores)
def test_the_area_is_that_under_the_roc_curve(typical, strange):
    labels = np.r_[np.ones(len(typical)), np.zeros(len(strange))]
    assert area(typical, strange) == pytest.approx(roc_auc_score(labels, np.r_[typical, strange]))


@given(
    st.lists(st.floats(-1000, 0, width=32), min_size=1, max_size=60, unique=True).map(np.float32), st.floats(-1e4, 1e3)
)
def test_a_percentile_never_falls_as_the_score_rises_and_ends_at_the_ends(held_out, elbo):
    reference = Reference.of(held_out, {})
    low, here, high = reference.percentile(np.array([elbo - 1, elbo, elbo + 1]))
    assert 0 <= low <= here <= high <= 100
    assert reference.percentile(held_out.min() - 1) == 0
    assert reference.percentile(held_out.max()) == 100


def test_a_percentile_is_the_share_of_scores_that_are_no_higher():
    held_out = np.random.default_rng(0).normal(-90, 10, 20_000)
    for elbo in (-120.0, -100.0, -90.0, -75.0):
        assert Reference.of(held_out, {}).percentile(elbo) == pytest.approx(100 * (held_out <= elbo).mean(), abs=0.5)


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        {},
        {"elbo": RISING},
        {"elbo": RISING[:-1], "areas": {}},
        {"elbo": RISING[::-1], "areas": {}},
        {"elbo": [*RISING[:-1], float("nan")], "areas": {}},
        {"elbo": [*RISING[:-1], "0"], "areas": {}},
        {"elbo": RISING, "areas": 3},
        {"elbo": RISING, "areas": {}, "split": 3},
        {"elbo": RISING, "areas": {"letters": "0.5"}},
        {"elbo": RISING, "areas": {"letters": float("nan")}},
    ],
)
def test_what_is_no_reference_is_refused_with_the_checkpoint_that_holds_it(digits_model, tmp_path: Path, values):
    for file in digits_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / METRICS).write_text(json.dumps({"reference": values}))
    with pytest.raises(CheckpointError, match=r"metrics\.json: reference: ((elbo|areas|split): )?expected"):
        read_checkpoint(tmp_path)
