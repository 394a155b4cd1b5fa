"""The batch key of a model pads batches, and computes rows one by one where that keeps their bits."""

import numpy as np
import pytest

from app.batching.rows import RowBatch
from app.inference.calibration import SCORE, Calibration, Variant
from app.inference.engine import Engine
from app.inference.loaded_model import LoadedModel
from app.observability.metrics import Metrics
from app.settings import Settings
from model.formats import read_model

SIZES = (1, 2, 4, 8, 16, 32, 48)


@pytest.fixture(scope="module")
def model(digits_model, device) -> LoadedModel:
    settings = Settings(model=digits_model, device=device, threads=1, max_batch_size=48)
    return Engine(read_model(digits_model), settings, Metrics()).loaded_model


def calibrated(model: LoadedModel, **found) -> LoadedModel:
    return model.calibrated(model.device_model.compiled, Calibration(SIZES, **found))


def test_a_batch_is_padded_with_zeros_to_the_next_size(model):
    key = calibrated(model).keys[Variant("encode")]
    for count in range(1, 49):
        parts = [RowBatch((np.full((rows, 1, 8, 8), 7, np.uint8),)) for rows in (1, count - 1) if rows]
        (pixels,) = key.stack(parts).columns
        assert len(pixels) == min(size for size in SIZES if size >= count)
        assert (pixels[:count] == 7).all()
        assert not pixels[count:].any()


def test_seeded_requests_share_batches_with_others_if_all_batches_are_deterministic(model):
    keys = calibrated(model, deterministic_sizes=SIZES, uniform=True).keys
    assert keys[Variant("decode", deterministic=True)] == keys[Variant("decode")]


@pytest.mark.parametrize("found", [{"deterministic_sizes": SIZES}, {"deterministic_sizes": (4,), "uniform": True}])
def test_seeded_requests_have_batches_of_their_own_if_others_are_computed_differently(model, found):
    keys = calibrated(model, **found).keys
    seeded = keys[Variant("decode", deterministic=True)]
    assert seeded != keys[Variant("decode")]
    assert seeded.sizes == found["deterministic_sizes"]


def test_rows_are_computed_one_by_one_if_no_size_is_deterministic(model):
    key = calibrated(model).keys[Variant("encode", deterministic=True)]
    batch = key.stack([RowBatch((np.zeros((3, 1, 8, 8), np.uint8),))])
    assert len(batch) == 3
    assert len(key.run(batch, single=False, check=lambda: None)) == 3


def test_scores_are_computed_one_by_one_and_share_batches_by_their_number_of_draws(model):
    key = calibrated(model, deterministic_sizes=SIZES, uniform=True).keys[SCORE]
    assert not key.sizes


def test_a_model_is_batch_invariant_if_all_its_batches_are_deterministic(model):
    assert calibrated(model, deterministic_sizes=SIZES, uniform=True).batch_invariant
    assert not calibrated(model, deterministic_sizes=SIZES).batch_invariant
    assert not calibrated(model, deterministic_sizes=(4,), uniform=True).batch_invariant
