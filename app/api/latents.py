"""Latents of a request body: JSON or .npy to float32 [N, *latent_shape]."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from app.api.schemas import LatentsIn, Posterior
from app.codecs.base64_text import decode_floats
from app.codecs.npy import Header, read_array
from app.errors import UnprocessableContent
from app.inference.image_sizes import require_pixels
from app.validation import describe_value, parse_json, quoted, require_items
from model.interface import FixedSize, ModelSpec

MAX_ABS_LATENT = 1e6
"""Absolute value far above any latent of a N(0, I) prior, and far below the overflow of float32."""

JSON_OVERHEAD = 16
"""Values and names in the JSON of latents besides the latents: their shape and the name of the model."""


class ExpectedLatents(NamedTuple):
    """What a request may have: at most `max_items` latents of a model, of images of at most `max_pixels`.

    They are in the units of the diffusion model with `scaled`; if that is None, with the field `scaled` of a JSON body.
    """

    spec: ModelSpec
    max_items: int
    max_pixels: int
    scaled: bool | None = None

    @property
    def moments(self) -> int:
        """The arrays at the beginning of a response of /encode: mean and logvar, or the mean alone."""
        return 2 if self.spec.has_variance else 1

    @property
    def largest_shape(self) -> tuple[int, ...]:
        """The shape of the largest latent."""
        rule = self.spec.sizes
        if isinstance(rule, FixedSize):
            return rule.latent_shape
        return rule.latents_of(rule.maximum, rule.maximum)

    def shape_for(self, dimensions: tuple[int, ...], where: str) -> tuple[int, ...]:
        """Return the shape that all latents must have, if one `where` has these dimensions.

        Raises `UnprocessableContent` for dimensions of no latent, `ContentTooLarge` for those of too large an image; a
        model of one size expects its own shape.
        """
        rule = self.spec.sizes
        if isinstance(rule, FixedSize):
            return rule.latent_shape
        try:
            size = rule.size_of(dimensions)
        except ValueError as error:
            raise UnprocessableContent(f"{where}: {error}") from None
        require_pixels(size, self.max_pixels)
        return dimensions

    def has_encode_response(self, header: Header) -> bool:
        """Whether an array is a response of /encode, [2 + L, N, *latent_shape]: means, logvars and draws."""
        return len(header.shape) == len(self.largest_shape) + 2 and header.shape[0] >= self.moments


def latents_of_json(body: bytes, expected: ExpectedLatents) -> np.ndarray:
    """Read the latents of a JSON body in the units of the autoencoder; from a response of /encode the means.

    Raises `BadRequest` for a body that is not JSON, `ContentTooLarge` for too many latents, `UnprocessableContent` for
    latents of another shape, of another model, or above `MAX_ABS_LATENT`.
    """
    spec, max_items, _, scaled = expected
    largest = expected.largest_shape
    vectors = 3 * max_items  # in a response of /encode: the means and logvars of all items, and as many draws
    arrays = sum(prod(largest[:depth]) for depth in range(len(largest)))  # nested ones of one latent
    sent = parse_json(
        LatentsIn,
        body,
        max_values=vectors * (prod(largest) + 1) + JSON_OVERHEAD,
        max_names=vectors + JSON_OVERHEAD,
        max_arrays=vectors * arrays + JSON_OVERHEAD + max_items,
    )
    require_items(len(sent.latents), max_items)
    if None not in (scaled, sent.scaled) and scaled != sent.scaled:
        wanted, got = (str(value).lower() for value in (scaled, sent.scaled))
        raise UnprocessableContent(f"scaled: expected {wanted} as in the query, or no such field, got {got}")
    first = sent.latents[0]
    shape = expected.shape_for(_dimensions(first.mean if isinstance(first, Posterior) else first, sent), "latents[0]")
    _require_same_model(sent, shape, spec.identity)
    posteriors = [(index, item) for index, item in enumerate(sent.latents) if isinstance(item, Posterior)]
    if posteriors:
        _check_posteriors(posteriors, shape)
    means = [item.mean if isinstance(item, Posterior) else item for item in sent.latents]

    def location(index: int) -> str:
        return f"latents[{index}]" + (".mean" if isinstance(sent.latents[index], Posterior) else "")

    latents = within_range(_array(means, shape, location), location)
    return _unscaled(latents, spec, location) if scaled or sent.scaled else latents


def latents_of_npy(body: bytes, header: Header, expected: ExpectedLatents) -> np.ndarray:
    """Read the latents of an .npy body after `check_header`; from a response of /encode the means."""
    array = read_array(body, header)
    return latents_of_array(array[0] if expected.has_encode_response(header) else array, expected)


def latents_of_array(array: np.ndarray, expected: ExpectedLatents) -> np.ndarray:
    """Return the latents of an array after `check_header`, float32 in the units of the autoencoder."""
    latents = within_range(array)
    return _unscaled(latents, expected.spec) if expected.scaled else latents


def check_header(header: Header, expected: ExpectedLatents) -> None:
    """Refuse an .npy body by its header.

    Raises `UnprocessableContent` for another type or shape, `ContentTooLarge` for too many latents.
    """
    latents = header.shape[1:] if expected.has_encode_response(header) else header.shape
    is_float = header.type_name in ("float32", "float64")
    shape = expected.shape_for(latents[1:], "latents") if is_float else expected.spec.latent_shape
    if not is_float or not latents or latents[1:] != shape or not latents[0]:
        latent = ", ".join(["N", *map(str, shape)])
        response = f"[{expected.moments} + L, {latent}]"
        raise UnprocessableContent(
            f"expected a float32 array [{latent}], or a response of /encode, {response}, got {header}"
        )
    require_items(latents[0], expected.max_items)


def _dimensions(value: Any, sent: LatentsIn) -> tuple[int, ...]:
    """Return the lengths of nested lists, along the first item of each; of text those that the body names."""
    if isinstance(value, str):
        return tuple(sent.shape or ())
    lengths = []
    while isinstance(value, list) and value:
        lengths.append(len(value))
        value = value[0]
    return tuple(lengths)


def _require_same_model(sent: LatentsIn, shape: Sequence[int], model: str) -> None:
    """Refuse a response of /encode of another model: its latents would decode to other images."""
    if sent.shape is not None and sent.shape != list(shape):
        got = ", ".join(map(describe_value, sent.shape[:8])) + (", ..." if len(sent.shape) > 8 else "")
        raise UnprocessableContent(f"shape: expected {list(shape)}, the shape of one latent of {model}, got [{got}]")
    digest = model.rpartition(":")[2]
    if sent.model is not None and sent.model.rpartition(":")[2] != digest:
        raise UnprocessableContent(
            f"model: expected latents of {quoted(model)}, which is served, got those of {quoted(sent.model)}"
        )


def _check_posteriors(posteriors: Sequence[tuple[int, Posterior]], shape: Sequence[int]) -> None:
    """Refuse a posterior if its logvar or draws do not have the shape of a latent; `posteriors` have their indices."""
    with_variance = [(index, item.logvar) for index, item in posteriors if item.logvar is not None]
    if with_variance:
        _array([logvar for _, logvar in with_variance], shape, lambda n: f"latents[{with_variance[n][0]}].logvar")
    draws = [(z, index, draw) for index, item in posteriors for draw, z in enumerate(item.z or ())]
    if draws:
        _array([z for z, *_ in draws], shape, lambda n: "latents[{1}].z[{2}]".format(*draws[n]))


def _array(values: list[Any], shape: Sequence[int], location: Callable[[int], str]) -> np.ndarray:
    """Convert lists of numbers, or base64, to one array [N, *shape].

    `UnprocessableContent` names the `location` of the first list of another shape.
    """
    for index, value in enumerate(values):
        if isinstance(value, str):
            values[index] = decode_floats(value, shape, location(index))
    try:
        array = np.array(values, np.float64)
    except ValueError:  # the lists have different shapes
        array = None
    if array is not None and array.shape[1:] == tuple(shape):
        return array
    return np.stack([_row(value, shape, location(index)) for index, value in enumerate(values)])


def _row(value: Any, shape: Sequence[int], location: str) -> np.ndarray:
    try:
        row = np.array(value, np.float64)
    except ValueError:
        raise UnprocessableContent(f"{location}: expected lists of equal length") from None
    if row.shape != tuple(shape):
        expected, got = (" x ".join(map(str, dimensions)) for dimensions in (shape, row.shape))
        raise UnprocessableContent(f"{location}: expected {expected} numbers, got {got}")
    return row


def _unscaled(
    latents: np.ndarray, spec: ModelSpec, location: Callable[[int], str] = "latents[{}]".format
) -> np.ndarray:
    """Return latents of the diffusion model in the units of the autoencoder, within its range as well."""
    return within_range(spec.scaling.unscaled(latents), location)


def within_range(latents: np.ndarray, location: Callable[[int], str] = "latents[{}]".format) -> np.ndarray:
    """Return latents as float32; `UnprocessableContent` names the `location` of the first value out of range."""
    in_range = np.abs(latents) <= MAX_ABS_LATENT
    if not in_range.all():
        item, *inner = np.unravel_index(int(np.argmin(in_range)), in_range.shape)
        where = location(int(item)) + "".join(f"[{index}]" for index in inner)
        value, limit = float(latents[(item, *inner)]), f"{MAX_ABS_LATENT:.0f}"
        raise UnprocessableContent(f"{where}: expected a finite number between -{limit} and {limit}, got {value}")
    return np.ascontiguousarray(latents, np.float32)
