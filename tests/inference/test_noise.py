"""A seed determines all draws, on every machine and for any count."""

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
