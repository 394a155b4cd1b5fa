"""Memory that a request takes besides its body, in bytes, estimated from shapes before any computation.

Pixels count twice, since they are joined from the parts of several batches, and the response once more.
"""

from typing import NamedTuple

from app.context import Operation
from app.errors import ContentTooLarge
from model.elbo import SCORE_DRAWS
from model.interface import ModelSpec

FLOAT = 4

DIGITS = 16
"""Most bytes of a float32 number in JSON, with its comma."""

SCORE = 3072
"""Bytes of one image's scores and code, as numbers, as Python objects and in JSON."""


class Footprint(NamedTuple):
    """Bytes of memory for each item, and for each draw of each item."""

    item: int
    draw: int = 0

    def excess(self, count: int, draws: int, limit: int, part: str) -> ContentTooLarge:
        """Return the error for `count` items with `draws` draws each that take more than `limit` bytes.

        It says how many items or draws would fit. `part` is the part of the request that has the items.
        """
        each = self.item + draws * self.draw
        more = f" with {draws} draw{'s' * (draws != 1)} each" if draws else ""
        fit = f"at most {limit // each} fit" if each <= limit else "not even one fits"
        if draws and (fewer := (limit // count - self.item) // self.draw) > 0:
            fit = f"at most {fewer} draws each fit"
        images = f"{count} image{'s' * (count != 1)}{more}"
        detail = f"{part}: {images} take {count * each} bytes of memory; {fit} into the {limit} allowed"
        return ContentTooLarge(detail)


def of_encode(spec: ModelSpec, *, as_json: bool) -> Footprint:
    """Return the footprint of /encode: pixels, mean, logvar and response; noise, draws and an intermediate result."""
    values, written = spec.latent_values, DIGITS if as_json else FLOAT
    return Footprint(2 * spec.image_values + 2 * values * (FLOAT + written), values * (3 * FLOAT + written))


def of_decode(spec: ModelSpec, *, as_json: bool) -> Footprint:
    """Return the footprint of /decode and /sample: latents before and after scaling; pixels and the response."""
    return Footprint(2 * FLOAT * spec.latent_values + _image_bytes(spec, as_json))


def of_reconstruct(spec: ModelSpec, *, as_json: bool) -> Footprint:
    """Return the footprint of /reconstruct: pixels and noise; pixels and the response."""
    return Footprint(2 * spec.image_values + FLOAT * spec.latent_values + _image_bytes(spec, as_json))


def of_deviations(spec: ModelSpec, *, as_json: bool) -> Footprint:
    """Return the footprint of error maps: pixels and noise; deviations, their magnitudes, colours and the response."""
    _, height, width = spec.image_shape
    floats = 4 * FLOAT * spec.image_values
    written = -(-3 * height * width * 4 // 3) if as_json else max(3 * height * width, FLOAT * spec.image_values)
    mapped = 2 * 3 * height * width
    return Footprint(2 * spec.image_values + FLOAT * spec.latent_values + floats + mapped + written)


def of_score(spec: ModelSpec) -> Footprint:
    """Return the footprint of /score: pixels, scores and the draws of each; noise, and the part of it in a batch."""
    draw = 2 * FLOAT * spec.latent_values
    return Footprint(2 * spec.image_values + SCORE + SCORE_DRAWS * draw, draw)


def _image_bytes(spec: ModelSpec, as_json: bool) -> int:
    written = -(-spec.image_values * 4 // 3) if as_json else spec.image_values
    return 2 * spec.image_values + written


def footprints(spec: ModelSpec) -> dict[tuple[str, bool], Footprint]:
    """Return the footprint of each operation, by whether its response is JSON."""
    return {
        **{(Operation.ENCODE, as_json): of_encode(spec, as_json=as_json) for as_json in (False, True)},
        **{(Operation.DECODE, as_json): of_decode(spec, as_json=as_json) for as_json in (False, True)},
        **{(Operation.RECONSTRUCT, as_json): of_reconstruct(spec, as_json=as_json) for as_json in (False, True)},
        **{(Operation.DEVIATIONS, as_json): of_deviations(spec, as_json=as_json) for as_json in (False, True)},
        (Operation.SCORE, True): of_score(spec),
    }
