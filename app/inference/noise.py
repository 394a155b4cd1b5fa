"""Every draw comes from a seed: the caller's, or one that the service makes and tells."""

import secrets

import numpy as np
import torch
from torch import Tensor


class Noise:
    """Standard normal noise, the same for the same seed on every machine; fewer rows are the beginning of more."""

    def __init__(self, seed: int | None) -> None:
        self.seed = secrets.randbits(53) if seed is None else seed
        self._generator = np.random.default_rng(self.seed)

    def normal(self, *shape: int) -> Tensor:
        """eps ~ N(0, I), float32."""
        return torch.from_numpy(self._generator.standard_normal(shape, np.float32))

    @property
    def header(self) -> dict[str, str]:
        """The header that tells the seed."""
        return {"X-Seed": str(self.seed)}
