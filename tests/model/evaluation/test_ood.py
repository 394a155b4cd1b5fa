"""Tests of the out-of-distribution data sets and of their ELBOs, which are those of /score."""

import subprocess
import sys
from pathlib import Path
from string import ascii_letters

import numpy as np
import pytest
import torch

from model.data.arrays import batches
from model.elbo import elbo
from model.evaluation.ood import draw_letter, elbos, measure_elbo_percentiles, ood_datasets
from tests.support.models import COLOUR, DIGITS, build

ROOT = Path(__file__).parents[3]
PEAK = """
import resource, sys
import numpy as np
from model.evaluation.ood import ood_datasets

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

images = np.zeros((12, 3, 512, 512), np.uint8)
before = peak()
for batches in ood_datasets(images).values():
    for batch in batches:
        assert batch.nbytes <= 2**20
sys.exit(peak() - before > 200)
"""


def datasets(images, seed=0):
    return {name: np.concatenate([*found]) for name, found in ood_datasets(images, seed).items()}


@pytest.mark.parametrize("shape", [(450, 1, 28, 28), (410, 3, 13, 9), (3, 1, 8, 8)])
def test_batches_are_the_data_set_that_is_drawn_at_once(shape):
    images, rng = np.zeros(shape, np.uint8), np.random.default_rng(7)
    count, channels, height, width = shape
    found = datasets(images, 7)
    assert np.array_equal(found["noise"], rng.integers(0, 256, shape, np.uint8))
    sizes = range(round(0.6 * min(height, width)), round(0.95 * min(height, width)) + 1)
    letters = np.stack([draw_letter(letter, size, height, width) for letter in ascii_letters for size in sizes])
    expected = letters[rng.integers(len(letters), size=count)]
    assert np.array_equal(found["letters"], np.repeat(expected[:, None], channels, axis=1))


def test_data_sets_of_large_images_use_little_memory():
    """All letters in all sizes would be 2.4 GB."""
    assert subprocess.run([sys.executable, "-c", PEAK], check=False, cwd=ROOT).returncode == 0


@pytest.mark.parametrize("shape", [(40, 1, 28, 28), (7, 3, 20, 31), (5, 1, 8, 8)])
def test_every_data_set_has_the_size_and_shape_of_the_images(shape):
    sets = datasets(np.random.default_rng(1).integers(0, 256, shape, np.uint8))
    assert list(sets) == ["noise", "inverted", "upside down", "letters"]
    for images in sets.values():
        assert (images.shape, images.dtype) == (shape, np.uint8)


def test_images_are_inverted_rotated_or_replaced(digits):
    sets = datasets(digits)
    assert np.array_equal(255 - sets["inverted"], digits)
    assert np.array_equal(np.rot90(sets["upside down"], 2, (2, 3)), digits)
    assert sets["noise"].mean() == pytest.approx(127.5, abs=1)


def test_letters_are_white_on_black_varied_and_not_clipped(digits):
    letters = datasets(np.zeros((500, 1, 28, 28), np.uint8))["letters"][:, 0]
    assert len(np.unique(letters, axis=0)) > 150
    assert (letters.max((1, 2)) > 200).all()
    assert 0.03 < letters.mean() / 255 < 0.3
    edges = np.concatenate([letters[:, 0], letters[:, -1]], 1)
    assert (edges.max(1) > 0).mean() < 0.1


def test_the_same_seed_gives_the_same_data_sets(digits):
    first, again, other = (datasets(digits[:9], seed) for seed in (1, 1, 2))
    assert all(np.array_equal(first[kind], again[kind]) for kind in first)
    assert not np.array_equal(first["noise"], other["noise"])


@pytest.mark.parametrize("config", [DIGITS, COLOUR])
def test_the_score_of_an_image_is_the_elbo_of_its_grey_levels(config):
    images = np.random.default_rng(1).integers(0, 256, (50, *config.image_shape), np.uint8)
    vae = build(config)
    means = np.mean([elbos(vae, batches(images), seed) for seed in range(60)], 0)
    with torch.inference_mode():
        expected = elbo(vae, torch.tensor(images) / 255, samples=60).total.numpy()
    assert np.corrcoef(means, expected)[0, 1] > 0.9
    assert means.mean() == pytest.approx(expected.mean(), rel=0.02)


def test_the_percentiles_are_those_of_the_scores(digits):
    vae = build(DIGITS)
    reference = measure_elbo_percentiles(vae, digits[:300], seed=3)
    own = elbos(vae, batches(digits[:300]), seed=3)
    assert reference.elbo[0] == pytest.approx(own.min())
    assert reference.elbo[50] == pytest.approx(np.median(own))
    assert reference.elbo[100] == pytest.approx(own.max())
    assert reference.auroc.keys() == datasets(digits[:1]).keys()
    assert all(0 <= share <= 1 for share in reference.auroc.values())
