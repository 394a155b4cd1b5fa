"""Noise from a seed: the one of the request, or a random one that the response names."""

import secrets

import numpy as np
import torch
from torch import Tensor


class Noise:
    """Standard normal noise, the same for the same seed on every machine; the first rows do not depend on the count."""

    def __init__(self, seed: int | None) -> None:
        self.seed = secrets.randbits(53) if seed is None else seed
        self._generator = np.random.default_rng(self.seed)

    def normal(self, *shape: int) -> Tensor:
        """Draw eps ~ N(0, I), float32."""
        return torch.from_numpy(self._generator.standard_normal(shape, np.float32))
