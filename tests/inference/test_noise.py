"""A seed is the whole of a draw: the same numbers everywhere, and a prefix of every longer draw."""

import pytest
import torch

from app.inference.noise import Noise


def test_the_same_seed_draws_the_same_and_another_seed_does_not():
    first, again, other = (Noise(seed).normal(5, 4) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_seed_drew_these_numbers_from_the_first_day_on():
    drawn = Noise(0).normal(2, 2)
    assert drawn.dtype == torch.float32
    assert drawn.flatten().tolist() == pytest.approx([1.11762202, -1.3871249, -0.42657161, -0.80358726], abs=1e-7)


def test_fewer_rows_are_the_beginning_of_more():
    assert torch.equal(Noise(3).normal(4, 2, 3), Noise(3).normal(9, 2, 3)[:4])


def test_the_draws_are_standard_normal():
    drawn = Noise(1).normal(100_000)
    assert abs(drawn.mean()) < 5 / 100_000**0.5
    assert abs(drawn.var() - 1) < 5 * (2 / 100_000) ** 0.5
    assert abs((drawn**4).mean() - 3) < 5 * (96 / 100_000) ** 0.5


def test_without_a_seed_one_is_drawn_and_told():
    drawn, other = Noise(None), Noise(None)
    assert drawn.seed != other.seed
    assert drawn.header == {"X-Seed": str(drawn.seed)}
    assert torch.equal(drawn.normal(3), Noise(int(drawn.header["X-Seed"])).normal(3))
    assert 0 <= drawn.seed < 2**53  # whole in a JSON number
