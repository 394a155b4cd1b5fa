"""The config of a diffusers autoencoder: what the service reads in it, with bounds for what takes time to build.

Functions raise `ValueError` that names the field, what was expected and what came.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from model.interface import LatentScaling
from model.validation import is_number, require

MAX_SIDE = 2**14
"""Pixels of the longest side of an image; the service limits the number of pixels besides."""

MAX_DEFAULT_SIDE = 512
"""Longest side of an image of the default size, also for models that were trained on larger images."""

MAX_RESOLUTIONS = 12
"""Longest list in a config, with an entry for each resolution: beyond it no image has a latent."""

MAX_LAYERS = 100
"""Largest sum of the numbers of layers or blocks of all resolutions in one field of a config."""

LAYER_FIELDS = (
    "layers_per_block",
    "num_encoder_blocks",
    "num_decoder_blocks",
    "encoder_layers_per_block",
    "decoder_layers_per_block",
)

LATENT_STATISTICS = ("latents_mean", "latents_std")

_require = partial(require, ValueError)


def check_config(config: Mapping[str, Any]) -> None:
    """Check the fields that the service reads, and the number of layers, before diffusers builds any of them."""
    for name, value in config.items():
        if not name.startswith("_") and name not in LATENT_STATISTICS:
            longest = max(map(len, _lists(value)), default=0)
            _require(name, longest <= MAX_RESOLUTIONS, f"lists of at most {MAX_RESOLUTIONS} entries", longest)
    for name in LAYER_FIELDS:
        counts = _entries(config.get(name, 0))
        _require(name, all(type(count) is int and count >= 0 for count in counts), "counts", config.get(name))
        _require(name, sum(counts) <= MAX_LAYERS, f"at most {MAX_LAYERS} in all", sum(counts))
    default_side(config, 1)
    latent_scaling(config)


def default_side(config: Mapping[str, Any], factor: int) -> int:
    """Return the side of an image of the default size: that of the training, at most `MAX_DEFAULT_SIDE`."""
    size = config.get("sample_size") or MAX_DEFAULT_SIDE
    sides = _entries(size)
    valid = len(sides) in (1, 2) and all(type(side) is int and side > 0 for side in sides)
    _require("sample_size", valid, "pixels of a side, or of height and width", size)
    side = min(*sides, MAX_DEFAULT_SIDE)
    return int(max(side - side % factor, 2 * factor))


def latent_scaling(config: Mapping[str, Any]) -> LatentScaling:
    """Return the units of the diffusion model: with means and deviations, (z - mean) * scaling_factor / deviation."""
    factor, shift = _number(config, "scaling_factor", 1.0), _number(config, "shift_factor", 0.0)
    mean, std = (_statistics(config, name) for name in LATENT_STATISTICS)
    if mean and std:
        _require("latents_std", min(std) > 0, "numbers above 0", min(std))
        return LatentScaling(tuple(factor / deviation for deviation in std), mean)
    return LatentScaling((factor,), (shift,))


def _number(config: Mapping[str, Any], name: str, default: float) -> float:
    value = config.get(name)
    if value is None:
        return default
    _require(name, is_number(value), "a finite number", value)
    return float(value)


def _statistics(config: Mapping[str, Any], name: str) -> tuple[float, ...]:
    values, channels = config.get(name), config.get("latent_channels", 4)
    if values is None:
        return ()
    valid = isinstance(values, list | tuple) and all(map(is_number, values)) and len(values) == channels
    _require(name, valid, f"a finite number for each of {channels} channels", values)
    return tuple(map(float, values))


def _entries(value: Any) -> list[Any]:
    return [*value] if isinstance(value, list | tuple) else [value]


def _lists(value: Any) -> Iterator[list[Any] | tuple[Any, ...]]:
    if isinstance(value, list | tuple):
        yield value
        for entry in value:
            yield from _lists(entry)
