"""Tests of random flips and shifts of training images."""

import pytest
import torch

from model.training.augment import augment


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def coordinates(count: int) -> torch.Tensor:
    """Images [count, 2, 32, 16] with the row and the column of each pixel as their two channels."""
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(16), indexing="ij")
    return torch.stack([rows, columns]).expand(count, -1, -1, -1)


def test_images_are_unchanged_without_augmentations() -> None:
    images = coordinates(3)
    assert augment(images, (), generator()) is images


def test_a_flip_mirrors_half_of_the_images_from_left_to_right() -> None:
    images = coordinates(400)
    flipped = augment(images, ("flip",), generator())
    mirrored = (flipped == images.flip(3)).all(dim=(1, 2, 3))
    assert ((flipped == images).all(dim=(1, 2, 3)) | mirrored).all()
    assert 150 < mirrored.sum() < 250


def test_a_crop_shifts_an_image_by_a_sixteenth_and_mirrors_its_border() -> None:
    shifted = augment(coordinates(400), ("crop",), generator())
    assert set((shifted[:, 0, 16, 0] - 16).tolist()) == {-2, -1, 0, 1, 2}
    assert set((shifted[:, 1, 0, 8] - 8).tolist()) == {-1, 0, 1}
    row_steps = shifted[:, 0, :, 0].diff(dim=1)
    assert set(row_steps.flatten().tolist()) == {-1, 1}
    assert shifted[:, 0].max() == 31
    assert shifted[:, 1].max() == 15


@pytest.mark.parametrize("side", [1, 2, 7])
def test_small_images_keep_their_shape_and_type(side: int) -> None:
    images = torch.zeros(5, 1, side, side, dtype=torch.uint8)
    changed = augment(images, ("flip", "crop"), generator())
    assert (changed.shape, changed.dtype) == (images.shape, torch.uint8)
