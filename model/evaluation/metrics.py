"""Evaluation metrics of a trained model: bounds on log p(x), bits per dimension, active units.

log p(x) >= log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x)           Burda, Grosse and Salakhutdinov (2016), equation 8
A_u = Var_x(E_q(u|x)[u]),   unit u is active where A_u > 0.01   the same, section 5.2
bits per dimension = -log P(x) / (dimensions ln 2),   P(x) with the masses of the 8-bit levels in place of densities
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from model.data.arrays import Images
from model.device import autocast
from model.elbo import bounds
from model.likelihoods import bits_per_dim
from model.pixels import to_pixels
from model.records import Evaluation
from model.vae import VAE

__all__ = ["ChunkSizes", "Evaluation", "evaluate"]

ACTIVE_UNIT_VARIANCE = 0.01
"""Variance of the posterior mean over the data above which a latent unit counts as active."""

ProgressCallback = Callable[[int], None]
"""Function that is called with the number of evaluated images."""


class ChunkSizes(NamedTuple):
    """Sizes that bound the memory of an evaluation: `chunk` draws for each of `batch_size` images."""

    batch_size: int
    chunk: int

    @classmethod
    def fitting(cls, dimensions: int, draws: int) -> "ChunkSizes":
        """Return sizes with at most as many pixel values as 50 images of 28x28 with `draws` draws each."""
        images = max(1, 50 * draws * 28 * 28 // dimensions)
        batch_size = min(50, images)
        return cls(batch_size, min(draws, images // batch_size))


class _BatchScores(NamedTuple):
    scores: Tensor  # [B, 5]: ELBO, reconstruction, KL, log-likelihood, log-likelihood of the 8-bit levels
    mean: Tensor  # [B, D]


def evaluate(
    vae: VAE,
    images: Images,
    samples: int = 128,
    *,
    binarize: str = "dynamic",
    seed: int = 0,
    precision: str = "float32",
    batch_size: int = 50,
    chunk: int = 16,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Evaluate uint8 images [N, C, H, W], with `chunk` draws for each of `batch_size` images in memory at a time.

    `progress` is called after each batch. The same arguments give the same figures on the same device.
    """
    device = next(vae.parameters()).device
    with _seeded(seed, device), autocast(precision, device):
        pixels = _pixels(images, binarize, seed, batch_size)
        scores, variance = _collect(_evaluate_batches(vae, pixels, samples, chunk, progress))
    elbo, reconstruction, kl, log_likelihood, log_mass = scores.mean(0).tolist()
    error = scores[:, 3].std().item() / len(images) ** 0.5 if len(images) > 1 else None
    return Evaluation(
        images=len(images),
        samples=samples,
        elbo=elbo,
        reconstruction=reconstruction,
        kl=kl,
        log_likelihood=log_likelihood,
        standard_error=error,
        bits_per_dim=bits_per_dim(log_mass, vae.config.dimensions),
        active_units=int((variance > ACTIVE_UNIT_VARIANCE).sum()),
        units=len(variance),
        binarize=binarize,
        seed=seed,
        precision=precision,
    )


def _collect(batches: Iterator[_BatchScores]) -> tuple[Tensor, Tensor]:
    """Return the scores of all images [N, 5], and the variance of the posterior mean over them [D], in float64."""
    scores: list[Tensor] = []
    total = squares = torch.zeros(())
    for batch in batches:  # the means are summed, not kept: large images have many latents
        scores.append(batch.scores)
        total, squares = total + batch.mean.sum(0), squares + batch.mean.square().sum(0)
    count = sum(map(len, scores))
    return torch.cat(scores), squares / count - (total / count).square()


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global random generators inside the context, and restore them afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _pixels(images: Images, binarize: str, seed: int, batch_size: int) -> Iterator[Tensor]:
    # One generator on the CPU draws all pixels in order, so that they depend neither on device nor on batch size.
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, len(images), batch_size):
        yield to_pixels(torch.tensor(images[start : start + batch_size]), binarize, generator)


@torch.inference_mode()
def _evaluate_batches(
    vae: VAE, pixels: Iterator[Tensor], samples: int, chunk: int, progress: ProgressCallback | None
) -> Iterator[_BatchScores]:
    device, done = next(vae.parameters()).device, 0
    for x in pixels:
        yield _evaluate_batch(vae, x.to(device), samples, chunk)
        done += len(x)
        if progress:
            progress(done)


def _evaluate_batch(vae: VAE, x: Tensor, samples: int, chunk: int) -> _BatchScores:
    both = bounds(vae, x, samples, chunk=chunk)
    scores = torch.stack([*both.elbo, both.log_likelihood, both.level_log_likelihood], 1)
    return _BatchScores(scores.double().cpu(), vae.posterior(x).mean.flatten(1).double().cpu())
