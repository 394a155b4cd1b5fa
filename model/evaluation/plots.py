"""Plots of a trained model: learning curve, reconstructions, prior samples, latent traversal."""

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
from model.errors import reporting_file
from model.pixels import to_grey_levels, to_unit_interval
from model.records import EpochRecord
from model.vae import VAE

CURVE, RECONSTRUCTIONS, SAMPLES, TRAVERSAL = "learning", "reconstructions", "samples", "traversal"
COLUMNS = 12
ROWS = 8
MAX_IMAGE_SIDE = 256
"""Largest height and width of an image in a plot, in pixels; larger images are shrunk."""
MAX_TRAVERSAL_VALUES = 2**28
"""Largest number of pixel values from which a traversal chooses its latents."""
TRAVERSAL_STD = 3.0
"""Range of a traversal on each side of 0, in standard deviations of the prior."""


def write_plots(folder: Path, vae: VAE, images: Images, records: Sequence[EpochRecord] = (), seed: int = 0) -> None:
    """Write learning.png (if there are records), reconstructions.png, samples.png and traversal.png.

    `images` are uint8 [N, C, H, W]; held-out images show more than images of the training set.
    """
    with reporting_file(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if records:
            learning_curve(records).savefig(folder / f"{CURVE}.png", dpi=100)
    limit = COLUMNS * min(100, max(1, MAX_TRAVERSAL_VALUES // vae.config.dimensions // COLUMNS))
    for name, rows in (
        (RECONSTRUCTIONS, reconstructions(vae, images)),
        (SAMPLES, prior_samples(vae, seed)),
        (TRAVERSAL, traversal(vae, images[:limit])),
    ):
        with reporting_file(folder / f"{name}.png"):
            imsave(folder / f"{name}.png", _grid(rows))


def learning_curve(records: Sequence[EpochRecord]) -> Figure:
    """Plot the ELBO and its two terms over the epochs."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    bound, terms = figure.subplots(1, 2)
    epochs = [record.epoch for record in records]
    bound.plot(epochs, [record.elbo for record in records], label="ELBO, training")
    if records[-1].validation is not None:
        held = [np.nan if record.validation is None else record.validation for record in records]
        bound.plot(epochs, held, label="ELBO, held out, averaged weights")
    terms.plot(epochs, [record.reconstruction for record in records], label="reconstruction")
    terms.plot(epochs, [record.kl for record in records], label="KL")
    _exclude_first_epochs(bound, [record.elbo for record in records])
    for axes in (bound, terms):
        axes.set(xlabel="epoch", ylabel="nats per image")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def _exclude_first_epochs(axes: Axes, elbos: Sequence[float]) -> None:
    """Choose the vertical range without the first tenth of the epochs, which have a far lower ELBO."""
    least, most = min(elbos[len(elbos) // 10 :]), max(elbos)
    if least < most:
        axes.set_ylim(least - 0.1 * (most - least), most + 0.1 * (most - least))


@torch.inference_mode()
def reconstructions(vae: VAE, images: Images) -> Tensor:
    """Return rows of uint8 images [N, C, H, W], each above its reconstructions, [R, n, C, H, W] in [0, 1]."""
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
    """Return the means of p(x|z) for z drawn from the prior, [R, n, C, H, W] in [0, 1]."""
    noise = torch.randn(ROWS * COLUMNS, *vae.config.latent_shape, generator=torch.Generator().manual_seed(seed))
    prior = vae.prior(ROWS * COLUMNS)
    means = _means(vae, prior.reparameterize(noise.to(prior.mean.device)))
    return means.reshape(ROWS, COLUMNS, *means.shape[1:])


@torch.inference_mode()
def traversal(vae: VAE, images: Images) -> Tensor:
    """Vary the latents with the largest variance over uint8 images [N, C, H, W] from -3 to 3, one latent per row.

    The other latents are those of the first image. Returns [R, n, C, H, W] in [0, 1].
    """
    means = _latents(vae, images).flatten(1)
    most = means.var(0, correction=0).argsort(descending=True)[:ROWS]
    z = means[0].repeat(len(most), COLUMNS, 1)
    for row, unit in enumerate(most):
        z[row, :, unit] = torch.linspace(-TRAVERSAL_STD, TRAVERSAL_STD, COLUMNS, device=z.device)
    images_of_z = _means(vae, z.reshape(-1, *vae.config.latent_shape))
    return images_of_z.reshape(len(most), COLUMNS, *images_of_z.shape[1:])


def _latents(vae: VAE, images: Images) -> Tensor:
    device = next(vae.parameters()).device
    levels = (torch.tensor(batch).to(device) for batch in _split(vae, images))
    return torch.cat([vae.posterior(to_unit_interval(batch)).mean for batch in levels])


def _means(vae: VAE, z: Tensor) -> Tensor:
    return torch.cat([_shrunk(vae.likelihood(batch).mean) for batch in _split(vae, z)])


Rows = TypeVar("Rows", Tensor, Images)


def _split(vae: VAE, rows: Rows) -> Iterator[Rows]:
    size = batch_size(vae.config.dimensions, limit=2000)
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _shrunk(pixels: Tensor) -> Tensor:
    """Shrink images [N, C, H, W] to at most `MAX_IMAGE_SIDE` pixels in height and width by averaging areas."""
    height, width = pixels.shape[2:]
    if (longest := max(height, width)) <= MAX_IMAGE_SIDE:
        return pixels
    fitted = [max(1, round(length * MAX_IMAGE_SIDE / longest)) for length in (height, width)]
    return interpolate(pixels, fitted, mode="area")


def _grid(rows: Tensor) -> Images:
    """Arrange rows of images [R, n, C, H, W] as one uint8 image [height, width, 3]; small images are enlarged."""
    levels = to_grey_levels(rows.cpu())
    count, columns, _, height, width = levels.shape
    grid = levels.permute(0, 3, 1, 4, 2).reshape(count * height, columns * width, -1)
    colour = grid.expand(-1, -1, 3).numpy()
    factor = max(1, 56 // max(height, width))
    return np.ascontiguousarray(colour.repeat(factor, axis=0).repeat(factor, axis=1))
