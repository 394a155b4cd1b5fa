"""Calibration by normal images: how they are divided."""

import numpy as np
import pytest

from model.data.arrays import DataError
from model.data.splits import held_out
from model.evaluation.calibration import calibrate
from model.formats.native import model_of
from tests.support.models import DIGITS, build


@pytest.fixture(scope="module")
def model():
    return model_of(build(DIGITS), digest="abc")


def test_the_images_that_a_training_held_out_are_divided_into_two_halves(model, digits):
    images = digits[held_out(digits, 0.2, 0)]
    found = calibrate(model, images)
    assert found.images == len(images)
    assert 0.35 < len(found.ranks) / len(images) < 0.65


def test_copies_of_an_image_are_not_separated(model, digits):
    once, twice = calibrate(model, digits[:100]), calibrate(model, np.repeat(digits[:100], 2, axis=0))
    assert len(twice.ranks) == 2 * len(once.ranks)


def test_copies_of_one_image_are_too_few(model, digits):
    with pytest.raises(DataError, match="expected at least 40 different images"):
        calibrate(model, np.repeat(digits[:1], 100, axis=0))
