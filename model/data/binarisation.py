"""Dynamic binarisation of grey images."""

import torch
from torch import Tensor


def binarised(levels: Tensor, generator: torch.Generator) -> Tensor:
    """Each pixel drawn from the Bernoulli of its grey level: uint8 to float32 of 0 and 1, same shape.

    The dynamic binarisation of Salakhutdinov and Murray (2008), as Burda et al. (2016) train on it.
    """
    return torch.bernoulli(levels / 255, generator=generator)
