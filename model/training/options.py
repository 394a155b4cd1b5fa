"""Training options."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from math import isfinite
from typing import Any

from model.errors import UserError
from model.validation import require


class OptionsError(UserError):
    """Invalid option; the message names the option, what was expected and what came."""


_require: Callable[[str, bool, str, object], None] = partial(require, OptionsError)

PRECISIONS = ("float32", "bfloat16")
BOUNDS = {
    "epochs": (1, 10**6),
    "batch_size": (1, 10**6),
    "warmup": (0, 10**9),
    "samples": (1, 10**4),
    "holdout": (0, 10**9),
    "seed": (0, 2**63 - 1),
}
"""Smallest and largest value of each integer option."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """Options of a training. Invalid values raise `OptionsError`.

    `warmup` is in steps, `kl_warmup` in epochs. `clip` is the largest norm of the gradient, 0 for no limit. `samples`
    is the number of draws per image: L of the ELBO, K of the importance-weighted objectives. `holdout` is the number of
    training images that are held out for validation.
    """

    objective: str = "elbo"
    epochs: int = 50
    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup: int = 500
    schedule: str = "cosine"
    kl_warmup: float = 5.0
    ema: float = 0.999
    clip: float = 100.0
    weight_norm: bool = False
    samples: int = 1
    binarize: str = "dynamic"
    holdout: int = 0
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name, (least, most) in BOUNDS.items():
            require_between(name, getattr(self, name), least, most)
        for name, top in (("learning_rate", 10.0), ("kl_warmup", 1e6), ("ema", 1.0), ("clip", 1e9)):
            value = getattr(self, name)
            _require(name, isfinite(value) and 0 <= value <= top, f"a number between 0 and {top:g}", value)
        _require("learning_rate", self.learning_rate > 0, "a rate above 0", self.learning_rate)
        _require("ema", self.ema < 1, "a decay below 1", self.ema)
        _require("objective", self.objective in ("elbo", "iwae", "dreg"), "elbo, iwae or dreg", self.objective)
        _require("weight_norm", type(self.weight_norm) is bool, "true or false", self.weight_norm)
        _require("schedule", self.schedule in ("cosine", "constant"), "cosine or constant", self.schedule)
        _require("binarize", self.binarize in ("dynamic", "none"), "dynamic or none", self.binarize)
        _require("precision", self.precision in PRECISIONS, " or ".join(PRECISIONS), self.precision)

    def as_dict(self) -> dict[str, Any]:
        """Return the options as a JSON object."""
        return asdict(self)


def require_between(option: str, value: int, least: int, most: int) -> None:
    """Raise `OptionsError` unless `value` is an integer from `least` to `most`."""
    _require(option, type(value) is int and least <= value <= most, f"an integer from {least} to {most}", value)
