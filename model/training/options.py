"""The few numbers that fix a training, and how the rate, the weight of the KL and the memory of the average move.

    rate(t)   = rate * min(1, (t + 1) / warmup) * 1/2 (1 + cos(pi t / T))       Loshchilov and Hutter (2017)
    beta(t)   = min(1, t / (kl_warmup epochs))                                  Bowman et al. (2016), Sonderby et al.
    memory(t) = min(ema, (1 + t) / (10 + t))                                    so that the start is soon forgotten

t counts steps, T is their number.
"""

from dataclasses import asdict, dataclass
from math import cos, isfinite, pi
from typing import Any


class RecipeError(ValueError):
    """A training that cannot be run; the message names the option, what was expected and what came."""


PRECISIONS = ("float32", "bfloat16")
BOUNDS = {
    "epochs": (1, 10**6),
    "batch_size": (1, 10**6),
    "warmup": (0, 10**9),
    "samples": (1, 10**4),
    "holdout": (0, 10**9),
    "seed": (0, 2**63 - 1),
}
"""The least and the most of each option that counts; the most is far beyond what anybody has use for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How a model is trained.

    `warmup` is in steps and `kl_warmup` in epochs; `clip` bounds the norm of the gradient, 0 leaves it alone; `samples`
    are the draws for each image, L of the ELBO or K of the importance-weighted objectives; `holdout` images of the
    training split are held out for validation.
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

    def rate(self, step: int, steps: int) -> float:
        """The learning rate at `step` of `steps`."""
        ramp = min(1.0, (step + 1) / max(1, self.warmup))
        return self.learning_rate * ramp * (0.5 * (1 + cos(pi * step / steps)) if self.schedule == "cosine" else 1.0)

    def kl_weight(self, epoch: float) -> float:
        """The weight of the KL after `epoch` epochs, in [0, 1]."""
        return min(1.0, epoch / self.kl_warmup) if self.kl_warmup else 1.0

    def memory(self, step: int) -> float:
        """How much of the averaged weights is kept at `step`, in [0, 1)."""
        return min(self.ema, (1 + step) / (10 + step))

    def as_dict(self) -> dict[str, Any]:
        """The options as JSON holds them."""
        return asdict(self)


def require_between(option: str, value: int, least: int, most: int) -> None:
    """Refuse a number that the option has no use for."""
    _require(option, type(value) is int and least <= value <= most, f"an integer from {least} to {most}", value)


def _require(option: str, holds: bool, expected: str, got: object) -> None:
    if not holds:
        raise RecipeError(f"{option}: expected {expected}, got {got!r}")
