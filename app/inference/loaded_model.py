"""One checkpoint on the device, and the door to it: what a request holds on to from its first byte to its last.

A request that is under way when another checkpoint takes over is answered by the one that it began with.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from app.batching.batcher import Batcher
from app.batching.policy import BatchPolicy
from app.batching.rows import RowBatch
from app.context import RequestContext
from app.inference.footprint import footprints
from app.runtimes.cuda_graphs import CudaGraph
from app.runtimes.selection import CompiledNetworks
from model.checkpoint import Checkpoint
from model.elbo import ELBO, Bounds
from model.gaussian import DiagonalGaussian
from model.vae import VAE

if TYPE_CHECKING:
    from app.inference.device import TorchDevice


@dataclass(frozen=True, slots=True)
class BatchKey:
    """What to do with a batch, and by which weights.

    Of `exact` work a row has the same bits whoever shares its batch, `by_row` because each is computed by itself;
    `weight` is the number of draws that each row takes.
    """

    operation: str
    served: "LoadedModel"
    exact: bool = False
    by_row: bool = False
    weight: int = 1

    @property
    def policy(self) -> BatchPolicy:
        """The size of batches that the warm-up has found best."""
        return self.served.device.pace(self)

    def stack(self, parts: Sequence[RowBatch]) -> RowBatch:
        """Join the parts, padded to a size that was warmed up."""
        return self.served.device.stack(self, parts)

    def run(self, batch: RowBatch, *, single: bool) -> RowBatch:
        """Compute the batch on the device."""
        return self.served.device.infer(self, batch, alone=single)

    def recorded(self, rows: int) -> "CudaGraph | None":
        """How a batch of so many rows is computed on a GPU, once the warm-up has recorded it."""
        return self.served.recordings.get((self.operation, self.exact, self.weight, rows))


class LoadedModel:
    """Encode, decode, reconstruct and score by one checkpoint, for many callers at once.

    Batches have one of the `sizes`; the warm-up may leave the smaller ones. It finds `paces`, of each operation whether
    exact or not, and in which sizes rows are kept `apart`: exact networks give them the same bits always. Without any,
    each goes by itself. Where there are `programs` they do all of an operation, whoever asks; of `recordings` each does
    one shape of batch.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        networks: CompiledNetworks,
        batcher: Batcher,
        device: "TorchDevice",
        *,
        shapes: Sequence[int],
        always_exact: bool,
    ) -> None:
        self.checkpoint = replace(checkpoint, vae=networks.exact)  # the weights may have been read into another form
        self.networks = networks
        self.config = checkpoint.vae.config
        self.footprints = footprints(self.config)
        self.model = checkpoint.identity
        self.reference = checkpoint.reference
        self.paces: dict[tuple[str, bool], BatchPolicy] = {}
        self.apart: Sequence[int] = ()
        self.programs = dict(networks.programs)
        self.recordings: dict[tuple[str, bool, int, int], CudaGraph] = {}
        self.sizes = shapes
        self._batcher = batcher
        self.device = device
        self._always_exact = always_exact

    def measured(self, work: BatchKey, seconds: dict[int, float], quick: float, longest: float = math.inf) -> None:
        """Keep the seconds of batches by their number of rows; `quick` and `longest` are as in `BatchPolicy`."""
        pace = (
            BatchPolicy.from_row_timing(seconds[1], quick, longest)
            if work.by_row
            else BatchPolicy.from_batch_timings(seconds, quick)
        )
        self.paces[work.operation, work.exact] = pace

    async def encode(self, pixels: np.ndarray, context: RequestContext, *, exact: bool = False) -> Sequence[np.ndarray]:
        """The mean and the logvar of q(z|x) for uint8 pixels [N, C, H, W]: float32 [N, *latent]."""
        return (await self._submit(self.work("encode", exact=exact), context, pixels)).columns

    async def posterior(self, pixels: np.ndarray, context: RequestContext, *, exact: bool = False) -> DiagonalGaussian:
        """The same as a distribution, to take draws from; on the CPU."""
        return DiagonalGaussian(*map(torch.from_numpy, await self.encode(pixels, context, exact=exact)))

    async def decode(self, latents: np.ndarray | Tensor, context: RequestContext, *, exact: bool = False) -> np.ndarray:
        """The mean image of p(x|z) for float32 latents [N, *latent]: uint8 [N, C, H, W]."""
        return _only(await self._submit(self.work("decode", exact=exact), context, latents))

    async def reconstruct(self, pixels: np.ndarray, noise: Tensor | None, context: RequestContext) -> np.ndarray:
        """The mean image, uint8 [N, C, H, W], at the posterior mean or at the draw of `noise` [N, *latent]."""
        at = np.zeros((len(pixels), *self.config.latent_shape), np.float32) if noise is None else noise
        return _only(await self._submit(self.work("reconstruct", exact=noise is not None), context, pixels, at))

    async def score(self, pixels: np.ndarray, noise: Tensor, context: RequestContext) -> Bounds:
        """Both bounds on log p(x), [N] nats, by the draws of `noise` [N, K, *latent]."""
        answer = await self._submit(self.scoring(noise.shape[1]), context, pixels, noise)
        total, reconstruction, kl, log_likelihood = map(torch.from_numpy, answer.columns)
        return Bounds(ELBO(total, reconstruction, kl), log_likelihood)

    @property
    def batch_invariant(self) -> bool:
        """Whether no answer depends on who shares its batch."""
        return self._always_exact or self._alike

    def work(self, operation: str, *, exact: bool = False) -> BatchKey:
        """An operation by these weights; whether `exact` or not, where that makes no difference."""
        exact = (exact or self._always_exact) and not self._alike
        return BatchKey(operation, self, exact, by_row=exact and not self.apart)

    def shapes(self, work: BatchKey) -> Sequence[int]:
        """How many rows a batch of that work can have, least first."""
        if work.by_row:
            return [1]
        return self.apart if work.exact else self.sizes

    def works(self, operation: str) -> list[BatchKey]:
        """All ways in which it may be asked for."""
        return list(dict.fromkeys(self.work(operation, exact=exact) for exact in (False, True)))

    def scoring(self, draws: int = 1) -> BatchKey:
        """To score by so many draws, always row by row: of each row the draws are a batch already."""
        return BatchKey("score", self, exact=True, by_row=True, weight=draws)

    def vae(self, work: BatchKey, *, alone: bool) -> VAE:
        """The networks for a batch of that work, which may be one row `alone`."""
        batches = self.networks.exact if work.exact else self.networks.swift
        lone = self.networks.alone
        return lone if alone and not work.by_row and lone is not self.networks.exact else batches

    @property
    def _alike(self) -> bool:
        """Whether all work is exact: by the same networks, with the same bits in all batches."""
        return self.networks.swift is self.networks.exact and self.apart == self.sizes

    async def _submit(self, work: BatchKey, context: RequestContext, *columns: np.ndarray | Tensor) -> RowBatch:
        rows = RowBatch(tuple(map(np.asarray, columns)))
        return RowBatch.join(await self._batcher.submit(work, rows, context))


def _only(answer: RowBatch) -> np.ndarray:
    (pixels,) = answer.columns
    return pixels
