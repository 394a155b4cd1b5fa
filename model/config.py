"""Architecture config: equal configs build networks of equal shapes."""

from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields
from functools import partial
from math import ceil, prod
from typing import Any

from model.errors import UserError
from model.likelihoods import FAMILIES
from model.validation import require

MAX_WIDTH = 65_536
MAX_VALUES = 2**26
MAX_LAYERS = 1024
POSTERIORS = ("bounded", "clamped")


class ConfigError(UserError):
    """Invalid architecture; the message names the field, what was expected and what came."""


_require: Callable[[str, bool, str, object], None] = partial(require, ConfigError)


@dataclass(frozen=True, slots=True, kw_only=True)
class VAEConfig:
    """Architecture of an encoder and the decoder that mirrors it. Invalid values raise `ConfigError`.

    `image_shape` is (C, H, W) with C of 1 or 3. `latent_shape` is (D,), or (Cz, h, w) for a spatial latent. `stride` is
    the stride of the first convolution, 1 or 2. `channels` are the numbers of feature maps at each resolution; each
    step halves height and width, rounded up. Without channels the networks are MLPs. `blocks` are the numbers of
    residual blocks at each resolution. `hidden` are the widths of the linear layers between features and latent; a
    convolutional encoder without them ends in a 1x1 convolution to a spatial latent. `scale` is the standard deviation
    of the `gaussian` likelihood, in units of the pixel range [0, 1]. `posterior` is "bounded" (mean and logvar are
    limited smoothly), or "clamped" (logvar alone is clamped), the default of a config without the field.
    """

    image_shape: tuple[int, ...]
    latent_shape: tuple[int, ...]
    stride: int = 1
    channels: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()
    likelihood: str = "bernoulli"
    scale: float = 0.1
    posterior: str = "clamped"

    def __post_init__(self) -> None:
        for field, least in (("image_shape", 1), ("latent_shape", 1), ("channels", 1), ("blocks", 0), ("hidden", 1)):
            value = getattr(self, field)
            _require(field, _are_counts(value, least), f"integers between {least} and {MAX_WIDTH}", value)
        _require("image_shape", len(self.image_shape) == 3, "3 integers (C, H, W)", self.image_shape)
        _require("latent_shape", len(self.latent_shape) in (1, 3), "1 or 3 integers", self.latent_shape)
        for field, shape in (("image_shape", self.image_shape), ("latent_shape", self.latent_shape)):
            _require(field, prod(shape) <= MAX_VALUES, f"at most {MAX_VALUES} values", shape)
        _require("image_shape", self.image_shape[0] in (1, 3), "1 or 3 channels", self.image_shape)
        _require("stride", type(self.stride) is int and self.stride in (1, 2), "1 or 2", self.stride)
        layers = sum(self.blocks) + len(self.channels) + len(self.hidden)
        _require("blocks", layers <= MAX_LAYERS, f"at most {MAX_LAYERS} layers in all", layers)
        _require("blocks", len(self.blocks) == len(self.channels), "as many as channels", self.blocks)
        fit = prod(self.features) <= MAX_VALUES
        _require("channels", fit, f"at most {MAX_VALUES} values on the coarsest grid", self.features)
        _require("likelihood", self.likelihood in [*FAMILIES], f"one of {', '.join(FAMILIES)}", self.likelihood)
        usable = type(self.scale) in (int, float) and 1e-3 <= self.scale <= 10
        _require("scale", usable, "0.001 <= scale <= 10", self.scale)
        _require("posterior", self.posterior in POSTERIORS, " or ".join(POSTERIORS), self.posterior)
        _require(
            "latent_shape",
            not self.pointwise or self.latent_shape[1:] == self.features[1:],
            f"a latent on the coarsest grid {self.features[1:]} where hidden is empty",
            self.latent_shape,
        )

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Height and width of the feature maps at each resolution, finest first."""
        _, height, width = self.image_shape
        strides = [self.stride << step for step in range(len(self.channels))]
        return tuple((ceil(height / stride), ceil(width / stride)) for stride in strides)

    @property
    def features(self) -> tuple[int, ...]:
        """Shape between the convolutions and the linear layers; the image shape of an MLP."""
        return (self.channels[-1], *self.grids[-1]) if self.channels else self.image_shape

    @property
    def pointwise(self) -> bool:
        """Whether a 1x1 convolution maps the features to a latent on the same grid."""
        return len(self.latent_shape) == 3 and bool(self.channels) and not self.hidden

    @property
    def dimensions(self) -> int:
        """Number of values in one image, C * H * W."""
        return prod(self.image_shape)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON object, without the default `posterior`: earlier versions can read the rest."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("posterior", "clamped")}

    @classmethod
    def from_dict(cls, values: Any) -> "VAEConfig":
        """Read the JSON object that `as_dict` returns. Raises `ConfigError` for a missing, unknown or invalid field."""
        if not isinstance(values, dict):
            raise ConfigError(f"expected an object of architecture fields, got {type(values).__name__}")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}")
        if missing := [field.name for field in fields(cls) if field.default is MISSING and field.name not in values]:
            raise ConfigError(f"{missing[0]} is missing")
        arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**arguments)


def _are_counts(value: object, least: int) -> bool:
    return isinstance(value, tuple) and all(type(n) is int and least <= n <= MAX_WIDTH for n in value)
