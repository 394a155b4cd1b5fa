"""Noise from a seed: the one of the request, or a random one that the response names."""

import secrets
from hashlib import blake2b

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

    def for_images(self, pixels: np.ndarray, *shape: int) -> Tensor:
        """Draw eps ~ N(0, I) for images uint8 [N, C, H, W], float32 [N, *shape].

        The draws of an image follow from the seed and its pixels alone: different images have independent draws, and an
        image has the same ones in any request. The generator is Philox (Salmon et al., 2011), keyed by a digest.
        """
        drawn = np.empty((len(pixels), *shape), np.float32)
        for image, row in zip(pixels, drawn, strict=True):
            found = blake2b(image.tobytes(), digest_size=16, key=self.seed.to_bytes(8, "little"))
            key = int.from_bytes(found.digest(), "little")
            np.random.Generator(np.random.Philox(key=key)).standard_normal(dtype=np.float32, out=row)
        return torch.from_numpy(drawn)
