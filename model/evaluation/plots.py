"""What a model has learned, as pictures: its learning curve, reconstructions, samples of the prior, its latents."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torch.nn.functional import interpolate

from model.data.arrays import Images, batch_size
from model.pixels import to_grey_levels, to_unit_interval
from model.training.trainer import EpochRecord
from model.vae import VAE

CURVE, RECONSTRUCTIONS, SAMPLES, TRAVERSAL = "learning", "reconstructions", "samples", "traversal"
COLUMNS = 12
ROWS = 8
LARGEST = 256
"""Pixels that an image of a picture is high or wide at most; larger ones are shrunk."""
MOST = 2**28
"""Pixel values of the images by which a traversal chooses its latents."""
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
        (TRAVERSAL, traversal(vae, images[: min(100, max(1, MOST // vae.config.dimensions // COLUMNS)) * COLUMNS])),
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
    originals = torch.cat(
        [_shrunk(to_unit_interval(torch.tensor(batch).to(means.device))) for batch in _split(vae, rows)]
    )
    both = (originals, means)
    return torch.stack([part.reshape(-1, count, *means.shape[1:]) for part in both], dim=1).flatten(0, 1)


@torch.inference_mode()
def prior_samples(vae: VAE, seed: int) -> Tensor:
    """The means of p(x|z) for z of the prior: [R, n, C, H, W]."""
    noise = torch.randn(ROWS * COLUMNS, *vae.config.latent_shape, generator=torch.Generator().manual_seed(seed))
    prior = vae.prior(ROWS * COLUMNS)
    means = _means(vae, prior.reparameterize(noise.to(prior.mean.device)))
    return means.reshape(ROWS, COLUMNS, *means.shape[1:])


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
    return moved.reshape(len(most), COLUMNS, *moved.shape[1:])


def _latents(vae: VAE, images: Images) -> Tensor:
    device = next(vae.parameters()).device
    levels = (torch.tensor(batch).to(device) for batch in _split(vae, images))
    return torch.cat([vae.posterior(to_unit_interval(batch)).mean for batch in levels])


def _means(vae: VAE, z: Tensor) -> Tensor:
    return torch.cat([_shrunk(vae.likelihood(batch).mean) for batch in _split(vae, z)])


Rows = TypeVar("Rows", Tensor, Images)


def _split(vae: VAE, rows: Rows) -> Iterator[Rows]:
    size = batch_size(vae.config.dimensions, most=2000)
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _shrunk(pixels: Tensor) -> Tensor:
    """Images [N, C, H, W] of at most `LARGEST` pixels in height and width: means over areas of larger ones."""
    height, width = pixels.shape[2:]
    if (longest := max(height, width)) <= LARGEST:
        return pixels
    fitted = [max(1, round(length * LARGEST / longest)) for length in (height, width)]
    return interpolate(pixels, fitted, mode="area")


def _grid(rows: Tensor) -> Images:
    """Rows of images [R, n, C, H, W] side by side, enlarged where they are small, as [height, width, 3]."""
    levels = to_grey_levels(rows.cpu())
    count, columns, _, height, width = levels.shape
    picture = levels.permute(0, 3, 1, 4, 2).reshape(count * height, columns * width, -1)
    enlarged = picture.expand(-1, -1, 3).numpy()
    factor = max(1, 56 // max(height, width))
    return np.ascontiguousarray(enlarged.repeat(factor, axis=0).repeat(factor, axis=1))
