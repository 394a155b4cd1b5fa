"""Tests of the seeded test split by the content of the images."""

import numpy as np
import pytest

from model.data.arrays import Dataset
from model.data.splits import held_out, split_by_content


def test_the_split_has_about_its_share_and_follows_the_seed(digits: np.ndarray) -> None:
    chosen = held_out(digits, 0.1, 0)
    assert chosen.mean() == pytest.approx(0.1, abs=5 * (0.09 / len(digits)) ** 0.5)
    assert np.array_equal(chosen, held_out(digits, 0.1, 0))
    assert not np.array_equal(chosen, held_out(digits, 0.1, 1))


def test_an_image_has_the_same_split_in_any_data_set(digits: np.ndarray) -> None:
    order = np.random.default_rng(0).permutation(len(digits))
    assert np.array_equal(held_out(digits[order], 0.1, 0), held_out(digits, 0.1, 0)[order])
    assert np.array_equal(held_out(digits[500:], 0.1, 0), held_out(digits, 0.1, 0)[500:])


def test_a_data_set_is_divided_with_its_labels(digits: np.ndarray) -> None:
    labels = tuple(map(str, range(200)))
    dataset = split_by_content(Dataset("x", digits[:200], labels=labels), 0.1, 0)
    assert len(dataset.train) + len(dataset.test) == 200
    assert 0 < len(dataset.test) < 50
    assert all(
        np.array_equal(digits[int(name)], image) for name, image in zip(dataset.labels, dataset.train, strict=True)
    )


def test_a_test_split_is_kept(digits: np.ndarray) -> None:
    with_test = Dataset("x", digits[:200], digits[200:300])
    assert split_by_content(with_test, 0.1, 0) is with_test
    without_test = Dataset("x", digits[:200])
    assert split_by_content(without_test, 0.0, 0) is without_test
