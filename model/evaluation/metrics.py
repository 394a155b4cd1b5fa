"""The table of a trained model: both bounds on log p(x), how sure they are, and how many latents are in use.

log p(x) >= log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x)           Burda, Grosse and Salakhutdinov (2016), equation 8
A_u = Var_x(E_q(u|x)[u]),   unit u is active where A_u > 0.01   the same, section 5.2
bits per dimension = -(log p(x) / dimensions + log_bin_width) / ln 2
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from model.data.arrays import Images
from model.device import autocast
from model.elbo import bounds
from model.pixels import to_pixels
from model.vae import VAE

ACTIVE = 0.01
"""The variance of a posterior mean over the data from which its unit counts as active."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Means over `images` images in nats; `log_likelihood` is the bound with `samples` draws, with its standard error.

    `binarize` and `seed` say which pixels were scored: with `dynamic` the grey levels were drawn once, by that seed.
    `standard_error` is None where one image alone was scored.
    """

    images: int
    samples: int
    elbo: float
    reconstruction: float
    kl: float
    log_likelihood: float
    standard_error: float | None
    bits_per_dim: float
    active_units: int
    units: int
    binarize: str
    seed: int
    precision: str


class ChunkSizes(NamedTuple):
    """What is in memory at once: `chunk` draws for each of `batch_size` images."""

    batch_size: int
    chunk: int

    @classmethod
    def fitting(cls, dimensions: int, draws: int) -> "ChunkSizes":
        """50 images of MNIST with as many draws, and no more values of larger ones."""
        images = max(1, 50 * draws * 28 * 28 // dimensions)
        batch_size = min(50, images)
        return cls(batch_size, min(draws, images // batch_size))


class _Batch(NamedTuple):
    scores: Tensor  # [B, 4]: ELBO, reconstruction, KL, log-likelihood
    mean: Tensor  # [B, D]


def evaluate(  # what was scored, how well, and in what pieces
    vae: VAE,
    images: Images,
    samples: int = 128,
    *,
    binarize: str = "dynamic",
    seed: int = 0,
    precision: str = "float32",
    batch_size: int = 50,
    chunk: int = 16,
    watch: Callable[[int], None] | None = None,
) -> Evaluation:
    """Score uint8 images [N, C, H, W], of which `batch_size` times `chunk` draws are in memory at once.

    `watch` is told how many images are done. The same arguments give the same figures on the same device.
    """
    device = next(vae.parameters()).device
    with _drawing_from(seed, device), autocast(precision, device):
        scores, variance = _gathered(_batches(vae, _pixels(images, binarize, seed, batch_size), samples, chunk, watch))
    elbo, reconstruction, kl, log_likelihood = scores.mean(0).tolist()
    error = scores[:, 3].std().item() / len(images) ** 0.5 if len(images) > 1 else None
    return Evaluation(
        images=len(images),
        samples=samples,
        elbo=elbo,
        reconstruction=reconstruction,
        kl=kl,
        log_likelihood=log_likelihood,
        standard_error=error,
        bits_per_dim=vae.decoder.family.bits_per_dim(log_likelihood, vae.config.dimensions),
        active_units=int((variance > ACTIVE).sum()),
        units=len(variance),
        binarize=binarize,
        seed=seed,
        precision=precision,
    )


def _gathered(batches: Iterator[_Batch]) -> tuple[Tensor, Tensor]:
    """The scores of all images [N, 4], and the variance of the posterior mean over them [D], in float64."""
    scores: list[Tensor] = []
    total = squares = torch.zeros(())
    for batch in batches:  # their means are summed, not kept: large images have many latents
        scores.append(batch.scores)
        total, squares = total + batch.mean.sum(0), squares + batch.mean.square().sum(0)
    count = sum(map(len, scores))
    return torch.cat(scores), squares / count - (total / count).square()


@contextmanager
def _drawing_from(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _pixels(images: Images, binarize: str, seed: int, batch_size: int) -> Iterator[Tensor]:
    # One by one on the CPU, so that neither the device nor the batch size changes the pixels.
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, len(images), batch_size):
        levels = torch.tensor(images[start : start + batch_size])
        yield to_pixels(levels, binarize, generator)


@torch.inference_mode()
def _batches(  # as evaluate
    vae: VAE, pixels: Iterator[Tensor], samples: int, chunk: int, watch: Callable[[int], None] | None
) -> Iterator[_Batch]:
    device, done = next(vae.parameters()).device, 0
    for x in pixels:
        yield _score(vae, x.to(device), samples, chunk)
        done += len(x)
        if watch:
            watch(done)


def _score(vae: VAE, x: Tensor, samples: int, chunk: int) -> _Batch:
    both = bounds(vae, x, samples, chunk=chunk)
    scores = torch.stack([*both.elbo, both.log_likelihood], dim=1)
    return _Batch(scores.double().cpu(), vae.posterior(x).mean.flatten(1).double().cpu())
