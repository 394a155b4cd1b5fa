"""The model interface: what the service and its runtimes know of a model of any format.

A module of `model.formats` turns a folder or a name into an `ImageModel`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from model.gaussian import DiagonalGaussian
from model.likelihoods import FAMILIES, Likelihood, LogProbabilities
from model.records import Metrics
from model.typicality import Typicality
from model.validation import MAX_NUMBER


@dataclass(frozen=True, slots=True)
class FixedSize:
    """Image size rule of a model that takes images of one size, and latents of one shape."""

    image_size: tuple[int, int]
    latent_shape: tuple[int, ...]

    @property
    def default_size(self) -> tuple[int, int]:
        """The size (H, W) of all images."""
        return self.image_size

    def latents_of(self, height: int, width: int) -> tuple[int, ...]:
        """Return the shape of the latent of an image; raises `ValueError` for another size than the model's."""
        if (height, width) != self.image_size:
            expected, got = f"{self.image_size[1]} x {self.image_size[0]}", f"{width} x {height}"
            raise ValueError(f"expected images of {expected} pixels, got {got}")
        return self.latent_shape


@dataclass(frozen=True, slots=True)
class MultipleOfFactor:
    """Image size rule of a fully convolutional model: multiples of `factor` from `minimum` to `maximum` pixels a side.

    A latent has `latent_channels` values for each square of `factor` by `factor` pixels. `default` is the side of the
    square images that the model was trained on, or that an example shows.
    """

    factor: int
    minimum: int
    maximum: int
    latent_channels: int
    default: int = 0

    @property
    def default_size(self) -> tuple[int, int]:
        """The size (H, W) of an image if nothing else is asked for."""
        side = self.default or self.maximum
        return side, side

    def latents_of(self, height: int, width: int) -> tuple[int, ...]:
        """Return the shape of the latent of an image; raises `ValueError` for a size that the rule excludes."""
        for side in (height, width):
            if side % self.factor or not self.minimum <= side <= self.maximum:
                rule = f"multiples of {self.factor} from {self.minimum} to {self.maximum}"
                raise ValueError(f"expected images with sides that are {rule}, got {width} x {height}")
        return (self.latent_channels, height // self.factor, width // self.factor)

    def size_of(self, latent_shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the size (H, W) of the image of a latent; raises `ValueError` for the shape of no latent."""
        if len(latent_shape) != 3 or latent_shape[0] != self.latent_channels:
            raise ValueError(f"expected [{self.latent_channels}, h, w], got {list(latent_shape)}")
        size = (latent_shape[1] * self.factor, latent_shape[2] * self.factor)
        self.latents_of(*size)
        return size

    def fitted(self, height: int, width: int) -> tuple[int, int]:
        """Return the size that an image is resized to: the next lower multiples of the factor, within the bounds."""
        return self._fitted(height), self._fitted(width)

    def _fitted(self, side: int) -> int:
        return min(max(side - side % self.factor, self.minimum), self.maximum)


@dataclass(frozen=True, slots=True)
class LatentScaling:
    """The units of a diffusion model: it works on (z - shift) * scale.

    There is one number, or one for each channel; or for each channel and each place in a patch of `patch` latents, as
    [C, *patch]. Latents are float32 arrays of [..., C, h, w]. Raises `ValueError` for numbers that overflow float32.
    """

    scale: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)
    patch: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        for name, values in (("scale", self.scale), ("shift", self.shift)):
            if not all(abs(value) <= MAX_NUMBER for value in values):
                raise ValueError(f"{name} of the latents: expected numbers of at most {MAX_NUMBER:g}, got {values}")
        if not all(abs(value) >= 1 / MAX_NUMBER for value in self.scale):
            raise ValueError(f"scale of the latents: expected numbers of at least {1 / MAX_NUMBER:g}, got {self.scale}")

    @property
    def is_identity(self) -> bool:
        """Whether the units are those of the autoencoder itself."""
        return set(self.scale) == {1.0} and set(self.shift) == {0.0}

    def scaled(self, latents: np.ndarray) -> np.ndarray:
        """Return latents in the units of the diffusion model."""
        scaled: np.ndarray = (latents - self._spread(self.shift, latents)) * self._spread(self.scale, latents)
        return scaled

    def scaled_logvar(self, logvar: np.ndarray) -> np.ndarray:
        """Return the logarithms of the variances of scaled latents."""
        scaled: np.ndarray = logvar + 2 * np.log(np.abs(self._spread(self.scale, logvar)))
        return scaled

    def unscaled(self, latents: np.ndarray) -> np.ndarray:
        """Return latents of the diffusion model in the units of the autoencoder."""
        unscaled: np.ndarray = latents / self._spread(self.scale, latents) + self._spread(self.shift, latents)
        return unscaled

    def _spread(self, values: tuple[float, ...], latents: np.ndarray) -> np.ndarray:
        """Return numbers that broadcast to latents."""
        if len(values) == 1:
            return np.asarray(values, np.float32)
        of_patch = np.asarray(values, np.float32).reshape(-1, *self.patch)
        height, width = latents.shape[-2:]
        repeats = (1, -(-height // self.patch[0]), -(-width // self.patch[1]))
        return of_patch if self.patch == (1, 1) else np.tile(of_patch, repeats)[:, :height, :width]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The properties of a model, complete when it has been read.

    `digest` is the SHA-256 of its weights in hexadecimal, and in formats that do not keep both together of its config.
    `format` is the name of the format in `model.formats`, and `source` says where the model comes from, as clients may
    see it: a folder's name, or a name and commit on a hub. `likelihood` is the family p(x|z) in
    `model.likelihoods.FAMILIES`, None for a model that defines no density. `has_variance` is false for a deterministic
    encoder, and `has_prior` for a model that makes no images of draws from N(0, I). A model that `overflows_float16` is
    computed in float32 where float16 is asked for. A model that `can_tile` is a `TileableModel`. `parameters` is the
    number of weights, `architecture` the content of the model's config.json.
    """

    name: str
    digest: str
    format: str
    source: str
    channels: int
    sizes: FixedSize | MultipleOfFactor
    likelihood: str | None
    parameters: int
    has_variance: bool = True
    has_prior: bool = True
    scaling: LatentScaling = LatentScaling()
    overflows_float16: bool = False
    can_tile: bool = False
    architecture: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def identity(self) -> str:
        """The name and the beginning of the digest, as responses quote it."""
        return f"{self.name}:{self.digest[:12]}"

    @property
    def family(self) -> type[Likelihood]:
        """The family of the likelihood; raises `ValueError` for a model without a density."""
        if self.likelihood is None:
            raise ValueError(f"{self.identity} defines no density of images")
        return FAMILIES[self.likelihood]

    @property
    def has_elbo(self) -> bool:
        """Whether the ELBO is defined: by a density of images, a posterior with a variance, and the prior."""
        return self.likelihood is not None and self.has_variance

    def at(self, height: int, width: int) -> "ModelSpec":
        """Return the properties of the model for images of one size; raises `ValueError` for one it does not take."""
        return replace(self, sizes=FixedSize((height, width), self.sizes.latents_of(height, width)))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of an image of the default size."""
        return (self.channels, *self.sizes.default_size)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of the latent of such an image."""
        return self.sizes.latents_of(*self.sizes.default_size)

    @property
    def image_values(self) -> int:
        """The number of values in such an image, C * H * W."""
        return prod(self.image_shape)

    @property
    def latent_values(self) -> int:
        """The number of values in its latent."""
        return prod(self.latent_shape)


@dataclass(frozen=True, slots=True)
class DeterministicCode:
    """The output of a deterministic encoder, [B, *latent]: a posterior without a variance."""

    mean: Tensor
    logvar: None = None

    def reparameterize(self, noise: Tensor) -> Tensor:  # noqa: ARG002  # the signature of a posterior
        """Return the code; the noise has no effect."""
        return self.mean


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """The output of a decoder without a density: `mean` is the image, [B, C, H, W] in [0, 1]."""

    mean: Tensor
    deviation: None = None

    def log_prob(self, x: Tensor) -> Tensor:
        """Raise `NotImplementedError`."""
        raise NotImplementedError(f"the decoder defines no density for images of {tuple(x.shape)}")

    def log_probabilities(self, x: Tensor) -> LogProbabilities:
        """Raise `NotImplementedError`."""
        return LogProbabilities(self.log_prob(x), self.log_prob(x))


class ImageLikelihood(Protocol):
    """The distribution p(x|z), or a decoder without a density: its `log_prob` raises `NotImplementedError`."""

    @property
    def mean(self) -> Tensor:
        """The expected image, [..., C, H, W] in [0, 1]."""

    @property
    def deviation(self) -> Tensor | None:
        """The standard deviation of each value, broadcasting over the mean, if the distribution has a scale."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x|z) in nats, [..., B], for x of [B, C, H, W] in [0, 1]."""

    def log_probabilities(self, x: Tensor) -> LogProbabilities:
        """Return log p(x|z), and the log-mass of the 8-bit levels nearest to x."""


class Autoencoder(Protocol):
    """An encoder with a variance, and a decoder, between images and latents."""

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """Encode x of [B, C, H, W] in [0, 1] as q(z|x), with mean and logvar of [B, *latent]."""

    def likelihood(self, z: Tensor) -> ImageLikelihood:
        """Decode z of [..., *latent] as p(x|z)."""


@runtime_checkable
class ImageModel(Protocol):
    """An autoencoder with the properties that the service needs to know.

    A model with an ELBO in its spec is an `Autoencoder` as well.
    """

    @property
    def spec(self) -> ModelSpec: ...

    def posterior(self, x: Tensor) -> DiagonalGaussian | DeterministicCode:
        """Encode x of [B, C, H, W] in [0, 1], with a mean of [B, *latent]."""

    def likelihood(self, z: Tensor) -> ImageLikelihood:
        """Decode z of [..., *latent] as p(x|z)."""


@runtime_checkable
class TileableModel(ImageModel, Protocol):
    """A model that can compute a large image in overlapping tiles, in the memory of one tile."""

    def tiled(self, side: int) -> ImageModel:
        """Return the model that computes in tiles of `side` pixels, with the same weights; its results differ a little.

        Raises `ValueError` for a side that is no multiple of the factor.
        """


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from: its name in responses, and where clients may see that it was read from.

    `root` is the folder in which its files lie once links are resolved.
    """

    name: str
    source: str
    root: Path

    @classmethod
    def of_folder(cls, folder: Path) -> "Origin":
        """Return the origin of a model in a folder, which names it."""
        path = folder.resolve()
        return cls(path.name, path.name, path)


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model as it was read from a folder, with the records of its training and evaluation.

    Each of `warnings` says what part of the folder was left out, and why. `typicality` is None for a model that was not
    calibrated.
    """

    model: ImageModel
    metrics: Metrics = field(default_factory=Metrics)
    warnings: tuple[str, ...] = ()
    typicality: Typicality | None = None
