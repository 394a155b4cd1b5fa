"""A seed determines all draws, on every machine and for any count."""

import numpy as np
import pytest
import torch

from app.inference.noise import Noise


def test_the_same_seed_gives_the_same_draws_and_another_seed_gives_others():
    first, again, other = (Noise(seed).normal(5, 4) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_draws_of_a_seed_do_not_change_between_releases():
    drawn = Noise(0).normal(2, 2)
    assert drawn.dtype == torch.float32
    assert drawn.flatten().tolist() == pytest.approx([1.11762202, -1.3871249, -0.42657161, -0.80358726], abs=1e-7)


def test_the_first_rows_do_not_depend_on_the_number_of_rows():
    assert torch.equal(Noise(3).normal(4, 2, 3), Noise(3).normal(9, 2, 3)[:4])


def test_the_draws_are_standard_normal():
    drawn = Noise(1).normal(100_000)
    assert abs(drawn.mean()) < 5 / 100_000**0.5
    assert abs(drawn.var() - 1) < 5 * (2 / 100_000) ** 0.5
    assert abs((drawn**4).mean() - 3) < 5 * (96 / 100_000) ** 0.5


def test_without_a_seed_a_random_one_is_chosen():
    drawn, other = Noise(None), Noise(None)
    assert drawn.seed != other.seed
    assert torch.equal(drawn.normal(3), Noise(drawn.seed).normal(3))
    assert 0 <= drawn.seed < 2**53  # exact as a JSON number


def pictures(count):
    return np.random.default_rng(0).integers(0, 256, (count, 1, 6, 5), np.uint8)


def test_the_draws_of_an_image_depend_on_its_content_and_not_on_its_place():
    images = pictures(4)
    drawn = Noise(5).for_images(images, 3, 2)
    assert drawn.shape == (4, 3, 2)
    assert torch.equal(Noise(5).for_images(images[::-1], 3, 2), drawn.flip(0))
    assert torch.equal(Noise(5).for_images(images[2:3], 3, 2)[0], drawn[2])
    assert len({tuple(row.flatten().tolist()) for row in drawn}) == 4


def test_another_seed_or_one_other_pixel_gives_an_image_other_draws():
    image = pictures(1)
    other = image.copy()
    other[0, 0, 0, 0] ^= 1
    drawn = Noise(5).for_images(image, 8)
    assert not torch.equal(Noise(6).for_images(image, 8), drawn)
    assert not torch.equal(Noise(5).for_images(other, 8), drawn)


def test_the_draws_of_an_image_do_not_change_between_releases():
    drawn = Noise(0).for_images(np.zeros((1, 1, 2, 2), np.uint8), 3)
    assert drawn.flatten().tolist() == pytest.approx([0.8098, 0.1664, 0.3384], abs=1e-4)


def test_the_draws_of_images_are_standard_normal_and_independent():
    drawn = Noise(1).for_images(pictures(200), 500).numpy()
    assert abs(drawn.mean()) < 5 / 100_000**0.5
    assert abs(drawn.var() - 1) < 5 * (2 / 100_000) ** 0.5
    assert abs(np.corrcoef(drawn)[np.triu_indices(200, 1)]).max() < 6 / 500**0.5
