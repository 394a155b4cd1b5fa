"""Tests of the conversion between grey levels and pixel values."""

import torch

from model.pixels import sample_binary, to_grey_levels, to_pixels, to_unit_interval

LEVELS = torch.arange(256, dtype=torch.uint8)


def test_levels_cover_the_unit_interval():
    x = to_unit_interval(LEVELS)
    assert x.dtype == torch.float32
    assert (x.min(), x.max()) == (0, 1)


def test_levels_survive_the_round_trip():
    assert torch.equal(to_grey_levels(to_unit_interval(LEVELS)), LEVELS)


def test_binarize_selects_between_draws_and_grey_levels():
    seeded = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    assert torch.equal(to_pixels(LEVELS, "dynamic", seeded[0]), sample_binary(LEVELS, seeded[1]))
    assert torch.equal(to_pixels(LEVELS, "none", seeded[0]), to_unit_interval(LEVELS))


def test_binary_pixels_have_the_mean_of_their_grey_level(device):
    levels = torch.arange(0, 256, 51, dtype=torch.uint8, device=device)
    draws = sample_binary(levels.expand(20_000, -1), torch.Generator(device).manual_seed(0))
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    # the standard deviation of the mean of 20,000 draws is at most 0.0036
    torch.testing.assert_close(draws.mean(0), levels / 255, atol=0.018, rtol=0)


def test_the_seed_determines_the_binary_pixels():
    levels = torch.full((1000,), 128, dtype=torch.uint8)
    first, again, other = (sample_binary(levels, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.equal(again)
    assert not first.equal(other)
