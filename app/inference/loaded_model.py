"""A loaded model. A request keeps using the one that it started with, also while another one replaces it."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from app.batching.batcher import Batcher
from app.batching.policy import BatchPolicy
from app.batching.rows import RowBatch
from app.context import Operation, RequestContext
from app.inference.calibration import SCORE, Calibration, Variant
from app.inference.device import DeviceModel
from app.inference.footprint import Footprint, footprints
from app.runtimes.base import CompiledModel
from model.elbo import ELBO, Bounds
from model.elbo_percentiles import ElboPercentiles
from model.gaussian import DiagonalGaussian
from model.interface import ModelSpec
from model.records import Metrics

BATCHED_OPERATIONS = (Operation.ENCODE, Operation.DECODE, Operation.RECONSTRUCT)


@dataclass(frozen=True, slots=True)
class ModelBatchKey:
    """The batch key of an operation by one model: requests share a batch if model, operation and draws are the same.

    `weight` is the number of draws of each row. `sizes` are those that batches are padded to; without any, rows are
    computed one by one.
    """

    model: DeviceModel
    operation: str
    deterministic: bool = False
    weight: int = 1
    sizes: tuple[int, ...] = field(default=(), compare=False)
    policy: BatchPolicy = field(default=BatchPolicy(), compare=False)

    def stack(self, parts: Sequence[RowBatch]) -> RowBatch:
        """Join the parts, padded with zeros to one of the sizes."""
        batch = parts[0] if len(parts) == 1 else RowBatch.join(parts)
        if not self.sizes:
            return batch
        rows = len(batch)
        size = self.sizes[bisect_left(self.sizes, rows)]
        return batch if size == rows else batch.padded(size)

    def run(self, batch: RowBatch, *, single: bool) -> RowBatch:
        """Compute the batch on the device."""
        if self.sizes:
            return self.model.run(self.operation, batch, deterministic=self.deterministic, single=single)
        rows = [batch[row : row + 1] for row in range(len(batch))]
        return RowBatch.join([self.model.run(self.operation, row, deterministic=self.deterministic) for row in rows])


class ReconstructionErrors(NamedTuple):
    """The mean squared error of each image's pixels in [0, 1], [N], and its KL(q || N(0, I)) in nats, if defined."""

    squared: np.ndarray
    kl: np.ndarray | None = None

    @property
    def psnr(self) -> np.ndarray:
        """The peak signal-to-noise ratio in decibels, [N]; infinite for images without an error."""
        with np.errstate(divide="ignore"):
            ratio: np.ndarray = -10 * np.log10(self.squared)
        return ratio


@dataclass(frozen=True)
class LoadedModel:
    """Encode, decode, reconstruct and score by one model, for many concurrent requests.

    `spec` are the properties of the model, and `metrics` the records of its training and evaluation. `identity` is its
    name as responses quote it. The shapes are those of an image of the default size and of its latent.
    """

    spec: ModelSpec
    metrics: Metrics
    identity: str
    image_shape: tuple[int, int, int]
    latent_shape: tuple[int, ...]
    device_model: DeviceModel
    calibration: Calibration
    batcher: Batcher
    always_deterministic: bool
    keys: Mapping[Variant, ModelBatchKey]

    @classmethod
    def build(
        cls,
        metrics: Metrics,
        device_model: DeviceModel,
        calibration: Calibration,
        batcher: Batcher,
        *,
        always_deterministic: bool,
    ) -> "LoadedModel":
        """Build the model with a batch key for each operation and variant; `always_deterministic` is a setting."""

        def key(variant: Variant) -> ModelBatchKey:
            if variant != SCORE:
                deterministic = (variant.deterministic or always_deterministic) and not calibration.always_deterministic
                variant = Variant(variant.operation, deterministic)
            sizes, policy = calibration.sizes_of(variant), calibration.policy_of(variant)
            return ModelBatchKey(device_model, *variant, sizes=sizes, policy=policy)

        variants = [Variant(name, deterministic) for name in BATCHED_OPERATIONS for deterministic in (False, True)]
        keys = {variant: key(variant) for variant in (*variants, SCORE)}
        spec = device_model.compiled.model.spec
        return cls(
            spec,
            metrics,
            spec.identity,
            spec.image_shape,
            spec.latent_shape,
            device_model,
            calibration,
            batcher,
            always_deterministic,
            keys,
        )

    def calibrated(self, compiled: CompiledModel, calibration: Calibration) -> "LoadedModel":
        """Return the model with what its warm-up has found."""
        model, deterministic = self.device_model.recompiled(compiled), self.always_deterministic
        return self.build(self.metrics, model, calibration, self.batcher, always_deterministic=deterministic)

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

    @cached_property
    def footprints(self) -> dict[tuple[str, bool], Footprint]:
        """The memory of each operation, by whether its response is JSON."""
        return footprints(self.spec)

    async def encode(
        self, pixels: np.ndarray, context: RequestContext, *, deterministic: bool = False
    ) -> Sequence[np.ndarray]:
        """Return mean and logvar of q(z|x) for uint8 pixels [N, C, H, W]: float32 [N, *latent].

        Of a deterministic encoder there is the mean alone.
        """
        return (await self._submit(self.keys[Variant(Operation.ENCODE, deterministic)], context, pixels)).columns

    async def posterior(
        self, pixels: np.ndarray, context: RequestContext, *, deterministic: bool = False
    ) -> DiagonalGaussian:
        """Return q(z|x) as a distribution on the CPU, to take draws from; not of a deterministic encoder."""
        mean, logvar = await self.encode(pixels, context, deterministic=deterministic)
        return DiagonalGaussian(torch.from_numpy(mean), torch.from_numpy(logvar))

    async def decode(
        self, latents: np.ndarray | Tensor, context: RequestContext, *, deterministic: bool = False
    ) -> np.ndarray:
        """Return the mean image of p(x|z) for float32 latents [N, *latent]: uint8 [N, C, H, W]."""
        (pixels,) = (await self._submit(self.keys[Variant(Operation.DECODE, deterministic)], context, latents)).columns
        return pixels

    async def reconstruct(self, pixels: np.ndarray, noise: Tensor | None, context: RequestContext) -> np.ndarray:
        """Return the mean image, uint8 [N, C, H, W], at the posterior mean or at the draw of `noise` [N, *latent]."""
        draws = np.zeros((len(pixels), *self.latent_shape), np.float32) if noise is None else noise
        key = self.keys[Variant(Operation.RECONSTRUCT, noise is not None)]
        (images,) = (await self._submit(key, context, pixels, draws)).columns
        return images

    async def score(self, pixels: np.ndarray, noise: Tensor, context: RequestContext) -> Bounds:
        """Return both bounds on log p(x), [N] nats, by the draws of `noise` [N, K, *latent]."""
        key = replace(self.keys[SCORE], weight=noise.shape[1])
        columns = (await self._submit(key, context, pixels, noise)).columns
        total, reconstruction, kl, log_likelihood = map(torch.from_numpy, columns)
        return Bounds(ELBO(total, reconstruction, kl), log_likelihood)

    async def reconstruction_errors(self, pixels: np.ndarray, context: RequestContext) -> "ReconstructionErrors":
        """Return how far each image is from its reconstruction at the mean of the posterior."""
        return ReconstructionErrors(*(await self._submit(self.keys[SCORE], context, pixels)).columns)

    async def _submit(self, key: ModelBatchKey, context: RequestContext, *columns: np.ndarray | Tensor) -> RowBatch:
        parts = await self.batcher.submit(key, RowBatch(tuple(map(np.asarray, columns))), context)
        return parts[0] if len(parts) == 1 else RowBatch.join(parts)
