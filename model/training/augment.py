"""Augmentation of training images, drawn anew in each epoch.

`flip` mirrors half of the images from left to right, `crop` shifts each image at random.
"""

import torch
from torch import Tensor

LARGEST_SHIFT = 1 / 16
"""Largest shift as a share of height and width; the border is mirrored."""


def augment(levels: Tensor, kinds: tuple[str, ...], generator: torch.Generator) -> Tensor:
    """Return images [B, C, H, W] of any dtype, augmented; unchanged without `kinds`."""
    if not kinds:
        return levels
    count, _, height, width = levels.shape
    rows, columns = (torch.arange(side, device=levels.device).expand(count, -1) for side in (height, width))
    if "crop" in kinds:
        rows, columns = (_shifted(places, generator) for places in (rows, columns))
    if "flip" in kinds:
        mirrored = torch.rand(count, 1, generator=generator, device=levels.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    images = torch.arange(count, device=levels.device)[:, None, None]
    return levels.movedim(1, -1)[images, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def _shifted(places: Tensor, generator: torch.Generator) -> Tensor:
    """Shift places [B, side] by a random number for each image; places beyond the border are mirrored."""
    count, side = places.shape
    most = round(side * LARGEST_SHIFT)
    shifts = torch.randint(-most, most + 1, (count, 1), generator=generator, device=places.device)
    inside = (places + shifts).abs()
    return torch.where(inside >= side, 2 * (side - 1) - inside, inside)
