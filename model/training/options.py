"""Training options, and the schedules of learning rate, KL weight and weight averaging.

    learning_rate(t) = learning_rate * min(1, (t + 1) / warmup) * 1/2 (1 + cos(pi t / T))   Loshchilov and Hutter (2017)
    kl_weight(t)     = min(1, t / (kl_warmup epochs))                      Bowman et al. (2016), Sonderby et al. (2016)
    ema_decay(t)     = min(ema, (1 + t) / (10 + t))                        discounts the first weights quickly

t is the step, T the number of steps.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from math import cos, isfinite, pi
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

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate at `step` of `steps`."""
        ramp = min(1.0, (step + 1) / max(1, self.warmup))
        return self.learning_rate * ramp * (0.5 * (1 + cos(pi * step / steps)) if self.schedule == "cosine" else 1.0)

    def kl_weight(self, epoch: float) -> float:
        """Return the weight of the KL divergence after `epoch` epochs, in [0, 1]."""
        return min(1.0, epoch / self.kl_warmup) if self.kl_warmup else 1.0

    def ema_decay(self, step: int) -> float:
        """Return the decay of the moving average of the weights at `step`, in [0, 1)."""
        return min(self.ema, (1 + step) / (10 + step))

    def as_dict(self) -> dict[str, Any]:
        """Return the options as a JSON object."""
        return asdict(self)


def require_between(option: str, value: int, least: int, most: int) -> None:
    """Raise `OptionsError` unless `value` is an integer from `least` to `most`."""
    _require(option, type(value) is int and least <= value <= most, f"an integer from {least} to {most}", value)
