"""Training options."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from math import isfinite
from typing import Any

from model.errors import OptionsError
from model.validation import require

_require: Callable[[str, bool, str, object], None] = partial(require, OptionsError)

PRECISIONS = ("float32", "bfloat16")
AUGMENTATIONS = ("flip", "crop")
BOUNDS = {
    "epochs": (1, 10**6),
    "batch_size": (1, 10**6),
    "warmup": (0, 10**9),
    "samples": (1, 10**4),
    "holdout": (0, 10**9),
    "patience": (0, 10**6),
    "seed": (0, 2**63 - 1),
}
"""Smallest and largest value of each integer option."""

TOPS = {"learning_rate": 10.0, "kl_warmup": 1e6, "beta": 1e3, "ema": 1.0, "clip": 1e9, "test_share": 1.0}
"""Largest value of each real option; the smallest is 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """Options of a training. Invalid values raise `OptionsError`.

    `warmup` is in steps, `kl_warmup` in epochs, `beta` the weight of the KL divergence after it. `clip` is the largest
    norm of the gradient, 0 for no limit. `samples` is the number of draws per image: L of the ELBO, K of the
    importance-weighted objectives. `augment` are augmentations, separated by commas. `test_share` is the share of
    images that are held out as test split, `holdout` the number of training images for validation. `init` are
    the first weights: those of torch, or scaled so that the outputs of each layer have the variance 1 on the data. A
    training ends early after `patience` epochs without a better validation, 0 for never.
    """

    objective: str = "elbo"
    epochs: int = 50
    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup: int = 500
    schedule: str = "cosine"
    kl_warmup: float = 5.0
    beta: float = 1.0
    ema: float = 0.999
    clip: float = 100.0
    weight_norm: bool = False
    init: str = "torch"
    samples: int = 1
    binarize: str = "dynamic"
    augment: str = ""
    test_share: float = 0.0
    holdout: int = 0
    patience: int = 0
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name, (least, most) in BOUNDS.items():
            require_between(name, getattr(self, name), least, most)
        for name, top in TOPS.items():
            value = getattr(self, name)
            _require(name, isfinite(value) and 0 <= value <= top, f"a number between 0 and {top:g}", value)
        _require("learning_rate", self.learning_rate > 0, "a rate above 0", self.learning_rate)
        _require("ema", self.ema < 1, "a decay below 1", self.ema)
        _require("beta", self.beta > 0, "a weight above 0", self.beta)
        _require("test_share", self.test_share < 1, "a share below 1", self.test_share)
        _require("augment", {*self.augmentations} <= {*AUGMENTATIONS}, "flip, crop or flip,crop", self.augment)
        _require("objective", self.objective in ("elbo", "iwae", "dreg"), "elbo, iwae or dreg", self.objective)
        _require("weight_norm", type(self.weight_norm) is bool, "true or false", self.weight_norm)
        _require("init", self.init in ("torch", "data"), "torch or data", self.init)
        _require("schedule", self.schedule in ("cosine", "constant"), "cosine or constant", self.schedule)
        _require("binarize", self.binarize in ("dynamic", "none"), "dynamic or none", self.binarize)
        _require("precision", self.precision in PRECISIONS, " or ".join(PRECISIONS), self.precision)

    @property
    def augmentations(self) -> tuple[str, ...]:
        """The names of the augmentations."""
        return tuple(name for name in self.augment.split(",") if name)

    @property
    def is_elbo(self) -> bool:
        """Whether the objective is the ELBO itself, after the warm-up of the KL divergence."""
        return self.objective == "elbo" and self.beta == 1

    def as_dict(self) -> dict[str, Any]:
        """Return the options as a JSON object."""
        return asdict(self)


def require_between(option: str, value: int, least: int, most: int) -> None:
    """Raise `OptionsError` unless `value` is an integer from `least` to `most`."""
    _require(option, type(value) is int and least <= value <= most, f"an integer from {least} to {most}", value)
