"""Config of an ONNX pair: how images and latents are represented at the inputs and outputs of its two graphs."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from enum import StrEnum
from functools import partial
from typing import Any

from model.config import MAX_VALUES, ConfigError
from model.likelihoods import FAMILIES
from model.validation import MAX_NUMBER, is_number, require

MAX_SIDE = 16_384
"""Largest height and width of an image in pixels."""

_require: Callable[[str, bool, str, object], None] = partial(require, ConfigError)


class EncoderOutput(StrEnum):
    """The outputs of the encoder: two tensors, one with both along its channels, or a code without a variance."""

    MEAN_LOGVAR = "mean_logvar"
    MOMENTS = "moments"
    CODE = "code"


class DecoderOutput(StrEnum):
    """The output of the decoder: the mean image in the pixel range, or the parameters of the likelihood as logits."""

    MEAN = "mean"
    LOGITS = "logits"


class ChannelOrder(StrEnum):
    """The order of the colours along the channels of an image."""

    RGB = "RGB"
    BGR = "BGR"


class Layout(StrEnum):
    """The order of the dimensions of images and spatial latents."""

    NCHW = "NCHW"
    NHWC = "NHWC"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairConfig:
    """The content of config.json beside encoder.onnx and decoder.onnx. Invalid values raise `ConfigError`.

    `image_shape` is (C, H, W) and `latent_shape` (D,) or (C, h, w), for any layout of the graphs. With `factor`
    the pair takes images of all sizes that are multiples of it, from `minimum` to `maximum` pixels a side; the shapes
    are those of an example. `pixel_range` are the values of black and white. `scale` is the standard deviation of the
    likelihood `gaussian`, in units of [0, 1]. A diffusion model works on (z - shift_factor) * scaling_factor; both are
    one number or one for each channel. `prior` says whether draws from N(0, I) decode to images. `sha256` has the
    digests of the graphs, where the pair was written by `export`.
    """

    image_shape: tuple[int, ...]
    latent_shape: tuple[int, ...]
    encoder_output: str
    factor: int = 0
    minimum: int = 0
    maximum: int = 0
    pixel_range: tuple[float, ...] = (0.0, 1.0)
    channel_order: str = ChannelOrder.RGB.value
    layout: str = Layout.NCHW.value
    decoder_output: str = DecoderOutput.MEAN.value
    likelihood: str | None = None
    scale: float = 0.1
    scaling_factor: tuple[float, ...] = (1.0,)
    shift_factor: tuple[float, ...] = (0.0,)
    prior: bool = True
    sha256: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_shapes()
        self._check_sizes()
        self._check_choices()
        self._check_numbers()

    @property
    def latent_channels(self) -> int:
        """The number of channels of a latent, or of its values if it is a vector."""
        return self.latent_shape[0]

    @property
    def is_vector(self) -> bool:
        """Whether a latent is a vector."""
        return len(self.latent_shape) == 1

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON object, without those of a fixed size or of the default value."""
        defaults = {entry.name: entry.default for entry in fields(self) if entry.default is not MISSING}
        return {name: value for name, value in asdict(self).items() if value != defaults.get(name) and value != {}}

    @classmethod
    def from_dict(cls, values: Any) -> "PairConfig":
        """Read the JSON object that `as_dict` returns. Raises `ConfigError` for a missing, unknown or invalid field."""
        if not isinstance(values, dict):
            raise ConfigError(f"expected an object of fields, got {type(values).__name__}")
        known = [entry.name for entry in fields(cls)]
        if unknown := sorted(values.keys() - set(known)):
            raise ConfigError(f"unknown field {unknown[0]!r}; known are {', '.join(known)}")
        if missing := [name for name in ("image_shape", "latent_shape", "encoder_output") if name not in values]:
            raise ConfigError(f"{missing[0]} is missing")
        return cls(**{name: _field(name, value) for name, value in values.items()})

    def _check_shapes(self) -> None:
        for name in ("image_shape", "latent_shape"):
            value = getattr(self, name)
            counts = isinstance(value, tuple) and all(type(side) is int and 1 <= side <= MAX_VALUES for side in value)
            _require(name, counts, f"integers between 1 and {MAX_VALUES}", value)
        _require("image_shape", len(self.image_shape) == 3, "3 integers (C, H, W)", self.image_shape)
        _require("image_shape", self.image_shape[0] in (1, 3), "1 or 3 channels", self.image_shape)
        _require("image_shape", max(self.image_shape) <= MAX_SIDE, f"sides of at most {MAX_SIDE}", self.image_shape)
        _require("latent_shape", len(self.latent_shape) in (1, 3), "1 or 3 integers", self.latent_shape)

    def _check_sizes(self) -> None:
        for name in ("factor", "minimum", "maximum"):
            value = getattr(self, name)
            _require(name, type(value) is int and 0 <= value <= MAX_SIDE, f"an integer of at most {MAX_SIDE}", value)
        if not self.factor:
            _require("factor", not self.minimum and not self.maximum, "a factor with minimum and maximum", self.factor)
            return
        expected = f"a multiple of factor {self.factor}"
        for name in ("minimum", "maximum"):
            value = getattr(self, name)
            _require(name, value > 0 and value % self.factor == 0, expected, value)
        _require("maximum", self.minimum <= self.maximum, f"at least minimum {self.minimum}", self.maximum)
        grid = tuple(side // self.factor for side in self.image_shape[1:])
        fits = all(self.minimum <= side <= self.maximum and side % self.factor == 0 for side in self.image_shape[1:])
        _require("image_shape", fits, f"sides that are {expected} between minimum and maximum", self.image_shape)
        _require("latent_shape", self.latent_shape[1:] == grid, f"(C, {grid[0]}, {grid[1]})", self.latent_shape)

    def _check_choices(self) -> None:
        choices: dict[str, list[str]] = {
            "encoder_output": [*EncoderOutput],
            "decoder_output": [*DecoderOutput],
            "channel_order": [*ChannelOrder],
            "layout": [*Layout],
        }
        for name, allowed in choices.items():
            _require(name, getattr(self, name) in allowed, f"one of {', '.join(allowed)}", getattr(self, name))
        known = [*FAMILIES]
        expected = f"null or one of {', '.join(known)}"
        _require("likelihood", self.likelihood is None or self.likelihood in known, expected, self.likelihood)
        _require("prior", type(self.prior) is bool, "true or false", self.prior)
        if self.decoder_output == DecoderOutput.LOGITS:
            _require(
                "decoder_output", self.likelihood is not None, "mean where likelihood is null", self.decoder_output
            )
        elif self.likelihood is not None and FAMILIES[self.likelihood].params_per_channel > 1:
            _require("decoder_output", False, f"logits for the likelihood {self.likelihood}", self.decoder_output)

    def _check_numbers(self) -> None:
        for name in ("pixel_range", "scaling_factor", "shift_factor"):
            value = getattr(self, name)
            _require(name, isinstance(value, tuple) and all(map(is_number, value)), "finite numbers", value)
        rising = len(self.pixel_range) == 2 and self.pixel_range[0] < self.pixel_range[1]
        _require("pixel_range", rising, "two rising numbers, black and white", self.pixel_range)
        for name in ("scaling_factor", "shift_factor"):
            value = getattr(self, name)
            expected = f"one number, or one for each of {self.latent_channels} channels of a spatial latent"
            several = not self.is_vector and len(value) == self.latent_channels
            _require(name, len(value) == 1 or several, expected, value)
        usable = all(abs(value) >= 1 / MAX_NUMBER for value in self.scaling_factor)
        _require("scaling_factor", usable, "numbers other than 0", self.scaling_factor)
        _require("scale", is_number(self.scale) and 1e-3 <= self.scale <= 10, "0.001 <= scale <= 10", self.scale)
        texts = isinstance(self.sha256, dict) and all(isinstance(digest, str) for digest in self.sha256.values())
        _require("sha256", texts, "an object of hexadecimal digests", self.sha256)


def _field(name: str, value: Any) -> Any:
    if name in ("scaling_factor", "shift_factor") and is_number(value):
        return (float(value),)
    return tuple(value) if isinstance(value, list) else value
