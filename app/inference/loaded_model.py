"""A loaded model. A request keeps using the one that it started with, also while another one replaces it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from app.batching.batcher import Batcher
from app.batching.rows import RowBatch
from app.context import Operation, RequestContext
from app.inference.batch_key import ModelBatchKey
from app.inference.calibration import SCORE, Calibration, Variant
from app.inference.device import DeviceModel
from app.inference.footprint import Footprint, footprints
from app.inference.sized_batches import SizedBatches
from app.runtimes.base import CompiledModel
from model.elbo import ELBO, SCORE_DRAWS, Bounds
from model.elbo_percentiles import ElboPercentiles
from model.gaussian import DiagonalGaussian
from model.interface import FixedSize, ModelSpec, MultipleOfFactor
from model.records import Metrics
from model.statistics import statistic_names
from model.typicality import Typicality

BATCHED_OPERATIONS = (Operation.ENCODE, Operation.DECODE, Operation.RECONSTRUCT)


class Scores(NamedTuple):
    """The scores of N images: `values` [N, S] of the statistics in `names`, and `codes` [N, J].

    `bounds` on log p(x), [N] nats, are None for a model without an ELBO.
    """

    names: tuple[str, ...]
    values: np.ndarray
    codes: np.ndarray
    bounds: Bounds | None = None

    @classmethod
    def of_columns(cls, spec: ModelSpec, columns: Sequence[np.ndarray]) -> "Scores":
        """Return the scores from the results of the operation, each [N, ...]: the bounds, if any, values and codes."""
        *found, values, codes = columns
        if not found:
            return cls(statistic_names(spec), values, codes)
        total, reconstruction, kl, *others = map(torch.from_numpy, found)
        return cls(statistic_names(spec), values, codes, Bounds(ELBO(total, reconstruction, kl), *others))

    def untypical(self, typicality: Typicality) -> np.ndarray:
        """Return how unusual the images are by a calibration, [N], higher is rarer; it names the statistics."""
        places = [self.names.index(name) for name in typicality.statistics]
        return typicality.scores(self.values[:, places], self.codes)

    def statistic(self, name: str) -> np.ndarray:
        """Return one statistic, [N]."""
        column: np.ndarray = self.values[:, self.names.index(name)]
        return column


@dataclass(frozen=True)
class LoadedModel:
    """Encode, decode, reconstruct and score by one model, for many concurrent requests.

    `spec` are the properties of the model, `metrics` the records of its training and evaluation, `typicality` is its
    calibration by normal images. `identity` is its name as responses quote it. The shapes are those of an image of the
    default size and of its latent. `sized` has the batches of a model of many sizes, `keys` those of all others.
    `on_tiled` is called with the operation of an image that is computed in tiles.
    """

    spec: ModelSpec
    metrics: Metrics
    typicality: Typicality | None
    identity: str
    image_shape: tuple[int, int, int]
    latent_shape: tuple[int, ...]
    device_model: DeviceModel
    calibration: Calibration
    batcher: Batcher
    always_deterministic: bool
    keys: Mapping[Variant, ModelBatchKey]
    sized: SizedBatches | None
    on_tiled: Callable[[str], None]

    @classmethod
    def build(
        cls,
        metrics: Metrics,
        device_model: DeviceModel,
        calibration: Calibration,
        batcher: Batcher,
        *,
        always_deterministic: bool,
        on_tiled: Callable[[str], None] = lambda _: None,
        typicality: Typicality | None = None,
    ) -> "LoadedModel":
        """Build the model with a batch key for each operation and variant; `always_deterministic` is a setting."""

        def key(variant: Variant) -> ModelBatchKey:
            if variant.operation != Operation.SCORE:
                deterministic = (variant.deterministic or always_deterministic) and not calibration.always_deterministic
                variant = Variant(variant.operation, deterministic)
            sizes, policy = calibration.sizes_of(variant), calibration.policy_of(variant)
            return ModelBatchKey(device_model, variant.operation, variant.deterministic, sizes=sizes, policy=policy)

        variants = [Variant(name, deterministic) for name in BATCHED_OPERATIONS for deterministic in (False, True)]
        keys = {variant: key(variant) for variant in (*variants, SCORE)}
        spec = device_model.compiled.model.spec
        sized = None
        if isinstance(spec.sizes, MultipleOfFactor):
            sized = SizedBatches(
                device_model, calibration, always_deterministic=always_deterministic, on_tiled=on_tiled
            )
        return cls(
            spec,
            metrics,
            typicality,
            spec.identity,
            spec.image_shape,
            spec.latent_shape,
            device_model,
            calibration,
            batcher,
            always_deterministic,
            keys,
            sized,
            on_tiled,
        )

    def calibrated(self, compiled: CompiledModel, calibration: Calibration) -> "LoadedModel":
        """Return the model with what its warm-up has found."""
        model, deterministic = self.device_model.recompiled(compiled), self.always_deterministic
        return self.build(
            self.metrics,
            model,
            calibration,
            self.batcher,
            always_deterministic=deterministic,
            on_tiled=self.on_tiled,
            typicality=self.typicality,
        )

    @property
    def batch_invariant(self) -> bool:
        """Whether no result depends on the other rows of its batch."""
        return self.always_deterministic or self.calibration.always_deterministic

    @property
    def reference(self) -> ElboPercentiles | None:
        """The scores of the images that the model was evaluated on."""
        return self.metrics.reference

    @property
    def runtime(self) -> str:
        """The name of the runtime that computes the model."""
        return self.device_model.compiled.runtime

    @property
    def has_many_sizes(self) -> bool:
        """Whether the model takes images of several sizes."""
        return self.sized is not None

    def latents_of(self, pixels: np.ndarray) -> tuple[int, ...]:
        """Return the shape of the latents of images [N, C, H, W]."""
        return self.spec.sizes.latents_of(*pixels.shape[-2:]) if self.sized else self.latent_shape

    def size_of(self, latents: np.ndarray | Tensor) -> tuple[int, int]:
        """Return the size (H, W) of the images of latents [N, *latent]."""
        rule = self.spec.sizes
        return rule.image_size if isinstance(rule, FixedSize) else rule.size_of(tuple(latents.shape[1:]))

    @cached_property
    def footprints(self) -> dict[tuple[str, bool], Footprint]:
        """The memory of each operation for images of the default size, by whether its response is JSON."""
        return footprints(self.spec)

    def footprint(self, operation: Operation, size: tuple[int, int] | None, *, as_json: bool) -> Footprint:
        """Return the memory of an operation for images of one size, by default that of the model.

        Raises `ContentTooLarge` for images for which the device has not enough memory.
        """
        if self.sized is None or size is None:
            return self.footprints[operation, as_json]
        self.sized.require_memory(operation, size)
        return footprints(self.spec.at(*size))[operation, as_json]

    async def encode(
        self, pixels: np.ndarray, context: RequestContext, *, deterministic: bool = False
    ) -> Sequence[np.ndarray]:
        """Return mean and logvar of q(z|x) for uint8 pixels [N, C, H, W]: float32 [N, *latent].

        Of a deterministic encoder there is the mean alone.
        """
        return (await self._submit(self._key(Operation.ENCODE, deterministic, pixels), context, pixels)).columns

    async def posterior(
        self, pixels: np.ndarray, context: RequestContext, *, deterministic: bool = False
    ) -> DiagonalGaussian:
        """Return q(z|x) as a distribution on the CPU, to take draws from; not of a deterministic encoder."""
        mean, logvar = await self.encode(pixels, context, deterministic=deterministic)
        return DiagonalGaussian(torch.from_numpy(mean), torch.from_numpy(logvar))

    async def decode(
        self,
        latents: np.ndarray | Tensor,
        context: RequestContext,
        *,
        deterministic: bool = False,
        as_floats: bool = False,
    ) -> np.ndarray:
        """Return the mean image of p(x|z) for float32 latents [N, *latent]: uint8 [N, C, H, W].

        With `as_floats` it is float32 in [0, 1], as the decoder computes it.
        """
        key = self.keys[Variant(Operation.DECODE, deterministic)]
        if self.sized:
            key = self.sized.key(Variant(Operation.DECODE, deterministic, self.size_of(latents)))
        if as_floats:
            key = replace(key, operation=Operation.DECODE_FLOATS)
        (pixels,) = (await self._submit(key, context, latents)).columns
        return pixels

    async def reconstruct(self, pixels: np.ndarray, noise: Tensor | None, context: RequestContext) -> np.ndarray:
        """Return the mean image, uint8 [N, C, H, W], at the posterior mean or at the draw of `noise` [N, *latent]."""
        draws = np.zeros((len(pixels), *self.latents_of(pixels)), np.float32) if noise is None else noise
        key = self._key(Operation.RECONSTRUCT, noise is not None, pixels)
        (images,) = (await self._submit(key, context, pixels, draws)).columns
        return images

    async def deviations(self, pixels: np.ndarray, noise: Tensor | None, context: RequestContext) -> np.ndarray:
        """Return how far each pixel is from the reconstruction, float32 [N, C, H, W].

        The reconstruction is that of the posterior mean or of the draw of `noise` [N, *latent]. The deviations are in
        standard deviations of p(x|z), of a likelihood without a scale in units of the pixel range.
        """
        draws = np.zeros((len(pixels), *self.latents_of(pixels)), np.float32) if noise is None else noise
        key = replace(self._key(Operation.RECONSTRUCT, noise is not None, pixels), operation=Operation.DEVIATIONS)
        (deviations,) = (await self._submit(key, context, pixels, draws)).columns
        return deviations

    async def score(self, pixels: np.ndarray, noise: Tensor | None, context: RequestContext) -> Scores:
        """Return the statistics of images, and with `noise` [N, K, *latent] both bounds on log p(x) by its draws."""
        key = self._key(Operation.SCORE, True, pixels)
        if noise is None:
            return Scores.of_columns(self.spec, (await self._submit(key, context, pixels)).columns)
        key = replace(key, weight=key.weight * ceil(noise.shape[1] / SCORE_DRAWS))
        return Scores.of_columns(self.spec, (await self._submit(key, context, pixels, noise)).columns)

    def _key(self, operation: Operation, deterministic: bool, pixels: np.ndarray) -> ModelBatchKey:
        if self.sized is None:
            return self.keys[Variant(operation, deterministic)]
        return self.sized.key(Variant(operation, deterministic, pixels.shape[-2:]))

    async def _submit(self, key: ModelBatchKey, context: RequestContext, *columns: np.ndarray | Tensor) -> RowBatch:
        parts = await self.batcher.submit(key, RowBatch(tuple(map(np.asarray, columns))), context)
        return parts[0] if len(parts) == 1 else RowBatch.join(parts)
