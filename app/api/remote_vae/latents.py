"""Latents of the diffusers dialect: raw tensors [N, *latent], or packed as the pipelines of Flux have them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.api.latents import ExpectedLatents, within_range
from app.api.remote_vae.queries import DecodeQuery
from app.codecs.tensors import TensorType, read_tensor, tensor_type
from app.errors import UnprocessableContent, UnsupportedByModel
from app.inference.image_sizes import require_pixels
from app.validation import require_items
from model.interface import FixedSize, LatentScaling, MultipleOfFactor

PATCH = 2
"""Side of the squares of latents that packed latents have in one row."""

WHERE = "the tensor"


@dataclass(frozen=True, slots=True)
class ClaimedLatents:
    """What the query of a request says of its body: latents of a shape, perhaps packed."""

    kind: TensorType
    shape: tuple[int, ...]
    scaling: LatentScaling
    is_packed: bool

    @property
    def count(self) -> int:
        """The number of latents."""
        return self.kind.shape[0]

    def image_size(self, rule: FixedSize | MultipleOfFactor) -> tuple[int, int]:
        """Return the size (H, W) of the images."""
        return rule.image_size if isinstance(rule, FixedSize) else rule.size_of(self.shape)

    def read(self, body: bytes) -> np.ndarray:
        """Return the latents in the units of the autoencoder, float32 [N, *latent].

        Raises `BadRequest` for another number of bytes, `UnprocessableContent` for numbers that are not finite or out
        of the range of latents.
        """
        try:
            tensor = read_tensor(body, self.kind, WHERE)
            latents = within_range(tensor.astype(np.float32), (WHERE + "[{}]").format)
        except UnprocessableContent as error:  # diffusers sends other memory for a tensor that is not contiguous
            raise UnprocessableContent(
                f"{error.detail}; if the tensor was not contiguous, send tensor.contiguous()"
            ) from None
        if self.is_packed:
            latents = unpack(latents, self.shape)
        if self.scaling.is_identity:
            return latents
        return within_range(self.scaling.unscaled(latents), "the latents after the scaling[{}]".format)


def claimed_latents(query: DecodeQuery, expected: ExpectedLatents) -> ClaimedLatents:
    """Check the query of a request to decode, before its body is read.

    Raises `UnprocessableContent` for a shape of no latents of the model, `ContentTooLarge` for too many latents or too
    large images.
    """
    kind = tensor_type(query.dtype, query.shape)
    is_packed = len(kind.shape) == 3 and len(expected.largest_shape) == 3
    count, *dimensions = kind.shape
    shape = _unpacked_shape(kind, query, expected) if is_packed else tuple(dimensions)
    if not is_packed and expected.shape_for(shape, "shape[1:]") != shape:
        wanted = ", ".join(["N", *map(str, expected.spec.latent_shape)])
        raise UnprocessableContent(f"shape: expected [{wanted}], got {list(kind.shape)}")
    require_items(count, expected.max_items)
    return ClaimedLatents(kind, shape, query.scaling(expected.spec.scaling), is_packed)


def _unpacked_shape(kind: TensorType, query: DecodeQuery, expected: ExpectedLatents) -> tuple[int, ...]:
    """Return the shape of a latent, of which packed ones have the squares in rows."""
    rule = expected.spec.sizes
    if isinstance(rule, FixedSize):
        raise UnsupportedByModel(
            f"shape: packed latents are not supported by {expected.spec.identity}, which has images of one size; "
            f"expected [N, {', '.join(map(str, rule.latent_shape))}], got {list(kind.shape)}"
        )
    if query.height is None or query.width is None:
        raise UnprocessableContent(
            f"height, width: expected the pixels of the images of packed latents, as the shape is {list(kind.shape)}"
        )
    step = PATCH * rule.factor
    rows, columns = query.height // step, query.width // step
    wanted = (rows * columns, PATCH * PATCH * rule.latent_channels)
    if kind.shape[1:] != wanted:
        raise UnprocessableContent(
            f"shape: expected [N, {wanted[0]}, {wanted[1]}] for packed latents of {query.width} x {query.height} "
            f"pixels, got {list(kind.shape)}"
        )
    shape = (rule.latent_channels, PATCH * rows, PATCH * columns)
    require_pixels((shape[1] * rule.factor, shape[2] * rule.factor), expected.max_pixels)
    return expected.shape_for(shape, "height, width")


def unpack(packed: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return latents [N, C, h, w] of packed ones [N, h / 2 * w / 2, C * 2 * 2]."""
    channels, height, width = shape
    squares = packed.reshape(len(packed), height // PATCH, width // PATCH, channels, PATCH, PATCH)
    return np.ascontiguousarray(squares.transpose(0, 3, 1, 4, 2, 5)).reshape(len(packed), *shape)
