"""What a model has learned, as pictures: its learning curve, reconstructions, samples of the prior, its latents."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from model.arrays import Images
from model.training import EpochRecord
from model.vae import VAE

CURVE, RECONSTRUCTIONS, SAMPLES, TRAVERSAL = "learning", "reconstructions", "samples", "traversal"
COLUMNS = 12
ROWS = 8
AT_ONCE = 2**20
"""So many values of pixels go through the networks at once: thousands of small images, few of large ones."""
REACH = 3.0
"""How far from 0 a latent is moved, in standard deviations of the prior."""


def write_pictures(folder: Path, vae: VAE, images: Images, records: Sequence[EpochRecord] = (), seed: int = 0) -> None:
    """Write learning.png (where there are records), reconstructions.png, samples.png and traversal.png.

    `images` are uint8 [N, C, H, W], best such as were not trained on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if records:
        learning_curve(records).savefig(folder / f"{CURVE}.png", dpi=100)
    for name, rows in (
        (RECONSTRUCTIONS, reconstructions(vae, images)),
        (SAMPLES, prior_samples(vae, seed)),
        (TRAVERSAL, traversal(vae, images[: 100 * COLUMNS])),
    ):
        imsave(folder / f"{name}.png", _grid(rows))


def learning_curve(records: Sequence[EpochRecord]) -> Figure:
    """The ELBO and its two terms against the epochs."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    bound, terms = figure.subplots(1, 2)
    epochs = [record.epoch for record in records]
    bound.plot(epochs, [record.elbo for record in records], label="ELBO, training")
    if records[-1].validation is not None:
        held = [np.nan if record.validation is None else record.validation for record in records]
        bound.plot(epochs, held, label="ELBO, held out, averaged weights")
    terms.plot(epochs, [record.reconstruction for record in records], label="reconstruction")
    terms.plot(epochs, [record.kl for record in records], label="KL")
    _leave_out_the_fall(bound, [record.elbo for record in records])
    for axes in (bound, terms):
        axes.set(xlabel="epoch", ylabel="nats per image")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def _leave_out_the_fall(axes: Axes, elbos: Sequence[float]) -> None:
    """The first tenth of the epochs would flatten all that follows."""
    least, most = min(elbos[len(elbos) // 10 :]), max(elbos)
    if least < most:
        axes.set_ylim(least - 0.1 * (most - least), most + 0.1 * (most - least))


@torch.inference_mode()
def reconstructions(vae: VAE, images: Images) -> Tensor:
    """Rows of uint8 images [N, C, H, W], each above the row of their reconstructions: [R, n, C, H, W] in [0, 1]."""
    count = min(len(images), COLUMNS)
    rows = images[: count * min(ROWS // 2, len(images) // count)]
    means = _means(vae, _latents(vae, rows))
    both = (torch.tensor(rows, device=means.device) / 255, means)
    return torch.stack([part.reshape(-1, count, *images.shape[1:]) for part in both], dim=1).flatten(0, 1)


@torch.inference_mode()
def prior_samples(vae: VAE, seed: int) -> Tensor:
    """The means of p(x|z) for z of the prior: [R, n, C, H, W]."""
    noise = torch.randn(ROWS * COLUMNS, *vae.config.latent_shape, generator=torch.Generator().manual_seed(seed))
    prior = vae.prior(ROWS * COLUMNS)
    means = _means(vae, prior.at(noise.to(prior.mean.device)))
    return means.reshape(ROWS, COLUMNS, *vae.config.image_shape)


@torch.inference_mode()
def traversal(vae: VAE, images: Images) -> Tensor:
    """Each row moves one of the latents that uint8 images [N, C, H, W] move most, of the first image, from -3 to 3.

    [R, n, C, H, W] in [0, 1].
    """
    means = _latents(vae, images).flatten(1)
    most = means.var(0, correction=0).argsort(descending=True)[:ROWS]
    z = means[0].repeat(len(most), COLUMNS, 1)
    for row, unit in enumerate(most):
        z[row, :, unit] = torch.linspace(-REACH, REACH, COLUMNS, device=z.device)
    moved = _means(vae, z.reshape(-1, *vae.config.latent_shape))
    return moved.reshape(len(most), COLUMNS, *vae.config.image_shape)


def _latents(vae: VAE, images: Images) -> Tensor:
    device = next(vae.parameters()).device
    return torch.cat([vae.posterior(levels.to(device) / 255).mean for levels in _pieces(vae, torch.tensor(images))])


def _means(vae: VAE, z: Tensor) -> Tensor:
    return torch.cat([vae.likelihood(piece).mean for piece in _pieces(vae, z)])


def _pieces(vae: VAE, rows: Tensor) -> tuple[Tensor, ...]:
    return torch.split(rows, max(1, AT_ONCE // vae.config.dimensions))


def _grid(rows: Tensor) -> Images:
    """Rows of images [R, n, C, H, W] side by side, enlarged where they are small, as [height, width, 3]."""
    levels = (rows.cpu() * 255).round().to(torch.uint8)
    count, columns, _, height, width = levels.shape
    picture = levels.permute(0, 3, 1, 4, 2).reshape(count * height, columns * width, -1)
    enlarged = picture.expand(-1, -1, 3).numpy()
    factor = max(1, 56 // max(height, width))
    return np.ascontiguousarray(enlarged.repeat(factor, axis=0).repeat(factor, axis=1))
