"""ELBO percentiles of evaluated images, and the area under the ROC curve of out-of-distribution data sets.

percentile(x) = 100 P(ELBO(evaluated) <= ELBO(x))
AUROC         = P(ELBO(evaluated) > ELBO(out of distribution)), ties count half     Fawcett (2006), section 7
"""

from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np

Scores = np.ndarray
UNKNOWN_SPLIT = "data it was evaluated on"


@dataclass(frozen=True, slots=True)
class ElboPercentiles:
    """Percentiles 0 to 100 of the ELBOs of evaluated images, and how well the ELBO separates other data sets.

    `elbo` has 101 rising numbers, in nats. `auroc` is by data set, in [0, 1]. `split` names the split that the images
    are from, and `images` is their number where it is known. An invalid value raises `ValueError`.
    """

    elbo: tuple[float, ...]
    auroc: dict[str, float] = field(default_factory=dict)
    split: str = UNKNOWN_SPLIT
    images: int | None = None

    def __post_init__(self) -> None:
        numbers = all(isinstance(value, float) and isfinite(value) for value in self.elbo)
        if len(self.elbo) != 101 or not numbers or sorted(self.elbo) != list(self.elbo):
            raise ValueError(f"elbo: expected 101 finite rising numbers, got {len(self.elbo)} values")
        if not all(isinstance(share, int | float) and 0 <= share <= 1 for share in self.auroc.values()):
            raise ValueError("areas: expected numbers between 0 and 1")
        if not isinstance(self.split, str):
            raise ValueError(f"split: expected str, got {type(self.split).__name__}")  # noqa: TRY004  # as the others
        if self.images is not None and (type(self.images) is not int or self.images < 1):
            raise ValueError(f"images: expected a positive integer, got {repr(self.images)[:50]}")

    @classmethod
    def from_scores(cls, evaluated: Scores, others: dict[str, Scores], split: str = UNKNOWN_SPLIT) -> "ElboPercentiles":
        """Compute the percentiles of the ELBOs [N] of evaluated images, and the AUROC of each other data set."""
        percentiles = np.percentile(evaluated.astype(np.float64), np.arange(101))
        areas = {name: auroc(evaluated, scores) for name, scores in others.items()}
        return cls(tuple(percentiles.tolist()), areas, split, len(evaluated))

    @classmethod
    def from_dict(cls, values: Any) -> "ElboPercentiles":
        """Read the JSON object that `as_dict` returns; only `elbo` is required. Raises `ValueError`."""
        if not isinstance(values, dict):
            raise ValueError(f"expected an object, got {type(values).__name__}")  # noqa: TRY004  # as the others
        elbo, areas = values.get("elbo"), values.get("areas", {})
        if not isinstance(elbo, list | tuple):
            raise ValueError(f"elbo: expected 101 finite rising numbers, got {type(elbo).__name__}")  # noqa: TRY004
        if not isinstance(areas, dict):
            raise ValueError(f"areas: expected an object, got {type(areas).__name__}")  # noqa: TRY004
        numbers = tuple(float(value) if type(value) is int else value for value in elbo)
        return cls(numbers, areas, values.get("split", UNKNOWN_SPLIT), values.get("images"))

    def as_dict(self) -> dict[str, Any]:
        """Return the values as the JSON object `reference` of metrics.json."""
        return {"elbo": list(self.elbo), "areas": self.auroc, "split": self.split, "images": self.images}

    @property
    def source(self) -> str:
        """The evaluated images in words, such as "10,000 images of the test split"."""
        return f"{f'{self.images:,} ' if self.images else ''}images of the {self.split}"

    def percentile(self, elbo: Scores) -> Scores:
        """Return the percentage of evaluated images with an ELBO of at most `elbo` [N], [N] in [0, 100]."""
        shares: Scores = np.interp(elbo, self.elbo, np.arange(101))
        return shares


def auroc(positive: Scores, negative: Scores) -> float:
    """Return the probability that a positive score is above a negative one, ties counted half."""
    ranked = np.sort(negative)
    below, not_above = (np.searchsorted(ranked, positive, side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * len(negative)))
