"""Strangers are what their names say, and are scored as /score scores them."""

import subprocess
import sys
from pathlib import Path
from string import ascii_letters

import numpy as np
import pytest
import torch

from model.data.arrays import batches
from model.elbo import elbo
from model.evaluation.ood import draw_letter, elbos, measure_reference
from model.evaluation.ood import strangers as kinds_of
from tests.support.models import COLOUR, DIGITS, build

ROOT = Path(__file__).parents[3]
PEAK = """
import resource, sys
import numpy as np
from model.evaluation.ood import strangers

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

images = np.zeros((12, 3, 512, 512), np.uint8)
before = peak()
for batches in strangers(images).values():
    for batch in batches:
        assert batch.nbytes <= 2**20
sys.exit(peak() - before > 200)
"""


def strangers(images, seed=0):
    return {name: np.concatenate([*found]) for name, found in kinds_of(images, seed).items()}


@pytest.mark.parametrize("shape", [(450, 1, 28, 28), (410, 3, 13, 9), (3, 1, 8, 8)])
def test_what_comes_in_batches_is_what_would_be_drawn_at_once(shape):
    images, rng = np.zeros(shape, np.uint8), np.random.default_rng(7)
    count, channels, height, width = shape
    found = strangers(images, 7)
    assert np.array_equal(found["noise"], rng.integers(0, 256, shape, np.uint8))
    sizes = range(round(0.6 * min(height, width)), round(0.95 * min(height, width)) + 1)
    letters = np.stack([draw_letter(letter, size, height, width) for letter in ascii_letters for size in sizes])
    expected = letters[rng.integers(len(letters), size=count)]
    assert np.array_equal(found["letters"], np.repeat(expected[:, None], channels, axis=1))


def test_strangers_of_large_images_take_little_memory():
    """All letters in all sizes would be 2.4 GB."""
    assert subprocess.run([sys.executable, "-c", PEAK], check=False, cwd=ROOT).returncode == 0


@pytest.mark.parametrize("shape", [(40, 1, 28, 28), (7, 3, 20, 31), (5, 1, 8, 8)])
def test_there_are_as_many_of_each_kind_and_of_the_same_shape(shape):
    kinds = strangers(np.random.default_rng(1).integers(0, 256, shape, np.uint8))
    assert list(kinds) == ["noise", "inverted", "upside down", "letters"]
    for images in kinds.values():
        assert (images.shape, images.dtype) == (shape, np.uint8)


def test_they_are_the_images_inverted_turned_or_something_else(digits):
    kinds = strangers(digits)
    assert np.array_equal(255 - kinds["inverted"], digits)
    assert np.array_equal(np.rot90(kinds["upside down"], 2, (2, 3)), digits)
    assert kinds["noise"].mean() == pytest.approx(127.5, abs=1)


def test_letters_are_white_on_black_of_many_shapes_and_whole(digits):
    letters = strangers(np.zeros((500, 1, 28, 28), np.uint8))["letters"][:, 0]
    assert len(np.unique(letters, axis=0)) > 150
    assert (letters.max((1, 2)) > 200).all()
    assert 0.03 < letters.mean() / 255 < 0.3
    edges = np.concatenate([letters[:, 0], letters[:, -1]], 1)
    assert (edges.max(1) > 0).mean() < 0.1


def test_the_same_seed_gives_the_same_strangers(digits):
    first, again, other = (strangers(digits[:9], seed) for seed in (1, 1, 2))
    assert all(np.array_equal(first[kind], again[kind]) for kind in first)
    assert not np.array_equal(first["noise"], other["noise"])


@pytest.mark.parametrize("config", [DIGITS, COLOUR])
def test_every_image_is_scored_by_the_elbo_of_its_grey_levels(config):
    images = np.random.default_rng(1).integers(0, 256, (50, *config.image_shape), np.uint8)
    vae = build(config)
    means = np.mean([elbos(vae, batches(images), seed) for seed in range(60)], 0)
    with torch.inference_mode():
        expected = elbo(vae, torch.tensor(images) / 255, samples=60).total.numpy()
    assert np.corrcoef(means, expected)[0, 1] > 0.9
    assert means.mean() == pytest.approx(expected.mean(), rel=0.02)


def test_the_reference_is_made_of_these_scores(digits):
    vae = build(DIGITS)
    reference = measure_reference(vae, digits[:300], seed=3)
    own = elbos(vae, batches(digits[:300]), seed=3)
    assert reference.elbo[0] == pytest.approx(own.min())
    assert reference.elbo[50] == pytest.approx(np.median(own))
    assert reference.elbo[100] == pytest.approx(own.max())
    assert reference.areas.keys() == strangers(digits[:1]).keys()
    assert all(0 <= share <= 1 for share in reference.areas.values())
