"""How typical an image is of what a model knows: the place of its ELBO among the ELBOs of held-out images.

percentile(x) = 100 P(ELBO(held out) <= ELBO(x))
area          = P(ELBO(held out) > ELBO(stranger)), ties by half: the area under the ROC curve (Fawcett 2006, section 7)
"""

from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np

Scores = np.ndarray
UNTOLD = "data it was evaluated on"


@dataclass(frozen=True, slots=True)
class Reference:
    """`elbo` are the 101 percentiles of the held-out ELBOs, rising, in nats; `areas` are by kind of stranger.

    `split` says whose ELBOs they are: those of the images of the test split, or of another where there is none.
    `images` is the number of these images, where it is known.
    """

    elbo: tuple[float, ...]
    areas: dict[str, float] = field(default_factory=dict)
    split: str = UNTOLD
    images: int | None = None

    def __post_init__(self) -> None:
        numbers = all(isinstance(value, float) and isfinite(value) for value in self.elbo)
        if len(self.elbo) != 101 or not numbers or sorted(self.elbo) != list(self.elbo):
            raise ValueError(f"elbo: expected 101 finite rising numbers, got {len(self.elbo)} values")
        if not all(isinstance(share, int | float) and 0 <= share <= 1 for share in self.areas.values()):
            raise ValueError("areas: expected numbers between 0 and 1")
        if not isinstance(self.split, str):
            raise ValueError(f"split: expected str, got {type(self.split).__name__}")  # noqa: TRY004  # as the others
        if self.images is not None and (type(self.images) is not int or self.images < 1):
            raise ValueError(f"images: expected a positive integer, got {repr(self.images)[:50]}")

    @classmethod
    def of(cls, held_out: Scores, strangers: dict[str, Scores]) -> "Reference":
        """What the ELBOs of held-out images, and of images of other kinds, come to."""
        percentiles = np.percentile(held_out.astype(np.float64), np.arange(101))
        areas = {name: area(held_out, scores) for name, scores in strangers.items()}
        return cls(tuple(percentiles.tolist()), areas, images=len(held_out))

    @classmethod
    def from_dict(cls, values: Any) -> "Reference":
        """The reference that JSON holds, of which `elbo` alone is needed; a `ValueError` says what is wrong with it."""
        if not isinstance(values, dict):
            raise ValueError(f"expected an object, got {type(values).__name__}")  # noqa: TRY004  # as the others
        elbo, areas = values.get("elbo"), values.get("areas", {})
        if not isinstance(elbo, list | tuple):
            raise ValueError(f"elbo: expected 101 finite rising numbers, got {type(elbo).__name__}")  # noqa: TRY004
        if not isinstance(areas, dict):
            raise ValueError(f"areas: expected an object, got {type(areas).__name__}")  # noqa: TRY004
        numbers = tuple(float(value) if type(value) is int else value for value in elbo)
        return cls(numbers, areas, values.get("split", UNTOLD), values.get("images"))

    @property
    def whose(self) -> str:
        """The images that were scored, in words: such as "10,000 images of the test split"."""
        return f"{f'{self.images:,} ' if self.images else ''}images of the {self.split}"

    def percentile(self, elbo: Scores) -> Scores:
        """The share of held-out images that are no better explained, [N] in [0, 100]."""
        shares: Scores = np.interp(elbo, self.elbo, np.arange(101))
        return shares


def area(typical: Scores, strange: Scores) -> float:
    """The probability that a typical image scores higher than a strange one, ties counted by half."""
    ranked = np.sort(strange)
    below, not_above = (np.searchsorted(ranked, typical, side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * len(strange)))
