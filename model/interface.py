"""The model interface: what the service and its runtimes know of a model of any format.

A module of `model.formats` turns a folder or a name into an `ImageModel`.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import Protocol, runtime_checkable

from torch import Tensor

from model.gaussian import DiagonalGaussian


class ModelFormat(StrEnum):
    """The format that a model was read from."""

    NATIVE = "native"


@dataclass(frozen=True, slots=True)
class FixedSize:
    """Image size rule of a model that takes images of one size, and latents of one shape."""

    image_size: tuple[int, int]
    latent_shape: tuple[int, ...]

    def latents_of(self, height: int, width: int) -> tuple[int, ...]:
        """Return the shape of the latent of an image; raises `ValueError` for another size than the model's."""
        if (height, width) != self.image_size:
            raise ValueError(f"image: expected {self.image_size[0]}x{self.image_size[1]} pixels, got {height}x{width}")
        return self.latent_shape


@dataclass(frozen=True, slots=True)
class MultipleOfFactor:
    """Image size rule of a fully convolutional model: multiples of `factor` from `minimum` to `maximum` pixels a side.

    A latent has `latent_channels` values for each square of `factor` by `factor` pixels.
    """

    factor: int
    minimum: int
    maximum: int
    latent_channels: int

    def latents_of(self, height: int, width: int) -> tuple[int, ...]:
        """Return the shape of the latent of an image; raises `ValueError` for a size that the rule excludes."""
        for side in (height, width):
            if side % self.factor or not self.minimum <= side <= self.maximum:
                rule = f"multiples of {self.factor} from {self.minimum} to {self.maximum}"
                raise ValueError(f"image: expected sides that are {rule}, got {height}x{width}")
        return (self.latent_channels, height // self.factor, width // self.factor)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The properties of a model, complete when it has been read.

    `digest` is the SHA-256 of its weights in hexadecimal, and `source` the folder or the name that it was read from.
    `likelihood` is the name of the family p(x|z), None for a model that defines no density. `has_variance` is false for
    a deterministic encoder, and `has_prior` for a model that decodes draws from N(0, I) to no images. A diffusion model
    works on (z - shift) * scale. `requires_float32` excludes lower precisions. `parameters` is the number of weights.
    """

    name: str
    digest: str
    format: ModelFormat
    source: str
    channels: int
    sizes: FixedSize | MultipleOfFactor
    likelihood: str | None
    parameters: int
    has_variance: bool = True
    has_prior: bool = True
    scale: float = 1.0
    shift: float = 0.0
    requires_float32: bool = False

    @property
    def identity(self) -> str:
        """The name and the beginning of the digest, as responses quote it."""
        return f"{self.name}:{self.digest[:12]}"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of the largest image."""
        if isinstance(self.sizes, FixedSize):
            return (self.channels, *self.sizes.image_size)
        return (self.channels, self.sizes.maximum, self.sizes.maximum)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of the latent of the largest image."""
        _, height, width = self.image_shape
        return self.sizes.latents_of(height, width)

    @property
    def image_values(self) -> int:
        """The number of values in the largest image, C * H * W."""
        return prod(self.image_shape)

    @property
    def latent_values(self) -> int:
        """The number of values in the latent of the largest image."""
        return prod(self.latent_shape)


class ImageLikelihood(Protocol):
    """The distribution p(x|z), or a decoder without a density: its `log_prob` raises `NotImplementedError`."""

    @property
    def mean(self) -> Tensor:
        """The expected image, [..., C, H, W] in [0, 1]."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x|z) in nats, [..., B], for x of [B, C, H, W] in [0, 1]."""


class Autoencoder(Protocol):
    """An encoder and a decoder between images and latents."""

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """Encode x of [B, C, H, W] in [0, 1] as q(z|x), with mean and logvar of [B, *latent]."""

    def likelihood(self, z: Tensor) -> ImageLikelihood:
        """Decode z of [..., *latent] as p(x|z)."""


@runtime_checkable
class ImageModel(Autoencoder, Protocol):
    """An autoencoder with the properties that the service needs to know."""

    @property
    def spec(self) -> ModelSpec: ...
