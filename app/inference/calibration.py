"""The calibration of a model: what the warm-up has found about its batches on this device."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from app.batching.policy import BatchPolicy
from app.context import Operation


class Variant(NamedTuple):
    """An operation, and whether each row must have the same bits in any batch.

    `size` (H, W) is that of the images of a model of many sizes.
    """

    operation: Operation
    deterministic: bool = False
    size: tuple[int, int] | None = None


class PixelCost(NamedTuple):
    """Seconds and bytes of memory that a batch takes for each pixel of its images, measured with up to `pixels` in one.

    An image of n pixels takes `seconds` * n * (1 + `growth` * n): attention takes time for each pair of pixels. Where
    it takes memory for each pair as well, that is `pair_memory` bytes.
    """

    seconds: float = 0.0
    memory: float = 0.0
    pixels: int = 0
    growth: float = 0.0
    pair_memory: float = 0.0

    def of_attention(self, pixels: int) -> float:
        """Return the seconds that the attention over all pixels of one image takes."""
        return self.seconds * pixels * self.growth * pixels

    def of_image(self, pixels: int) -> float:
        """Return the seconds that one image takes."""
        return self.seconds * pixels + self.of_attention(pixels)

    def bytes_of(self, pixels: int) -> float:
        """Return the bytes of memory that one image takes."""
        return self.memory * pixels + self.pair_memory * pixels**2

    def pixels_in(self, memory: float) -> int | None:
        """Return the most pixels of an image that takes so many bytes; None if its memory is not known."""
        if not self.pair_memory:
            return int(memory / self.memory) if self.memory else None
        half = self.memory / self.pair_memory / 2
        return int(math.sqrt(half**2 + memory / self.pair_memory) - half)


SCORE = Variant(Operation.SCORE, deterministic=True)
"""Scores are computed row by row: the draws of a row form a batch already."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The batches of a model: their sizes, their policies, and the limits of the device's memory.

    Batches are padded to one of `sizes`, deterministic batches to one of `deterministic_sizes`, in which each row has
    the same bits; without any, deterministic rows are computed one by one. With `uniform`, deterministic and other
    batches are computed in the same way. `policies` has an entry for each variant that was measured. `batch_limits` is
    the number of items of operations with batches that are limited by memory. Of a model of many sizes,
    `pixel_costs` are those of its operations, and `memory` is the number of bytes that a batch may take.
    """

    sizes: tuple[int, ...]
    deterministic_sizes: tuple[int, ...] = ()
    uniform: bool = False
    policies: Mapping[Variant, BatchPolicy] = field(default_factory=lambda: MappingProxyType({}))
    batch_limits: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    pixel_costs: Mapping[Operation, PixelCost] = field(default_factory=lambda: MappingProxyType({}))
    memory: int = sys.maxsize

    @property
    def always_deterministic(self) -> bool:
        """Whether all batches are deterministic, so that requests with and without a seed share them."""
        return self.uniform and self.deterministic_sizes == self.sizes

    def sizes_of(self, variant: Variant) -> tuple[int, ...]:
        """Return the sizes of batches; none if rows are computed one by one."""
        if variant.operation == Operation.SCORE:
            return ()
        return self.deterministic_sizes if variant.deterministic else self.sizes

    def policy_of(self, variant: Variant) -> BatchPolicy:
        """Return the policy of a variant; without limits if it was not measured."""
        return self.policies.get(variant, BatchPolicy())
