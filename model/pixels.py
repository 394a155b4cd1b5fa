"""Conversion between 8-bit grey levels and pixel values in [0, 1]."""

import torch
from torch import Tensor


def to_unit_interval(levels: Tensor) -> Tensor:
    """Convert uint8 grey levels to float32 values in [0, 1], same shape."""
    return levels / 255


def to_grey_levels(pixels: Tensor) -> Tensor:
    """Round values in [0, 1] to the nearest uint8 grey level, same shape."""
    return (pixels * 255).round().to(torch.uint8)


def sample_binary(levels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw each pixel from the Bernoulli distribution of its grey level: uint8 to float32 values 0 and 1, same shape.

    This is the dynamic binarisation of Salakhutdinov and Murray (2008), used for training by Burda et al. (2016). An
    integer from 0 to 254 is less than the level with the probability level / 255; on a CPU its draw takes a third of
    the time of `torch.bernoulli`.
    """
    thresholds = torch.randint(255, levels.shape, dtype=torch.uint8, generator=generator, device=levels.device)
    return (thresholds < levels).float()


def to_pixels(levels: Tensor, binarize: str, generator: torch.Generator) -> Tensor:
    """Convert uint8 grey levels to float32 in [0, 1]: drawn black or white where `binarize` is "dynamic"."""
    return sample_binary(levels, generator) if binarize == "dynamic" else to_unit_interval(levels)
