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
from PIL import Image, ImageDraw, ImageFont
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
CURVES = {
    "elbo": "ELBO, training",
    "validation": "ELBO, held out, averaged weights",
    "objective": "objective, training",
    "objective_validation": "objective, held out, averaged weights",
}
"""Fields of an epoch that are bounds, with their labels."""

LABEL_WIDTH, LABEL_SIZE, GAP = 100, 13, 12
"""Width and text size of the labels of reconstructions, and the gap between two pairs of rows, in pixels."""

MAX_IMAGE_SIDE = 256
"""Largest height and width of an image in a plot, in pixels; larger images are shrunk."""
MAX_TRAVERSAL_VALUES = 2**28
"""Largest number of pixel values from which a traversal chooses its latents."""
TRAVERSAL_STD = 3.0
"""Range of a traversal on each side of 0, in standard deviations of the prior."""


def write_plots(folder: Path, vae: VAE, images: Images, records: Sequence[EpochRecord] = (), seed: int = 0) -> None:
    """Write learning.png (if there are records), reconstructions.png, samples.png and traversal.png.

    `images` are uint8 [N, C, H, W]; held-out images show more than images of the training set. Those that are shown are
    chosen at random by `seed`.
    """
    with reporting_file(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if records:
            learning_curve(records).savefig(folder / f"{CURVE}.png", dpi=100)
    limit = COLUMNS * min(100, max(1, MAX_TRAVERSAL_VALUES // vae.config.dimensions // COLUMNS))
    chosen = choose_images(images, limit, seed)
    for name, picture in (
        (RECONSTRUCTIONS, _pairs(reconstructions(vae, chosen))),
        (SAMPLES, _grid(prior_samples(vae, seed))),
        (TRAVERSAL, _grid(traversal(vae, chosen))),
    ):
        with reporting_file(folder / f"{name}.png"):
            imsave(folder / f"{name}.png", picture)


def choose_images(images: Images, count: int, seed: int) -> Images:
    """Choose at most `count` of the images [N, C, H, W] at random, in random order."""
    return images[np.random.default_rng(seed).permutation(len(images))[:count]]


def learning_curve(records: Sequence[EpochRecord]) -> Figure:
    """Plot the bounds and the two terms of the ELBO over the epochs, the terms on axes of their own."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    bound, reconstruction, kl = figure.subplots(1, 3)
    epochs = [record.epoch for record in records]
    drawn = []
    for name, label in CURVES.items():
        values = [getattr(record, name) for record in records]
        if any(value is not None for value in values):
            drawn.append([np.nan if value is None else value for value in values])
            bound.plot(epochs, drawn[-1], label=label)
    reconstruction.plot(epochs, [record.reconstruction for record in records], label="reconstruction")
    kl.plot(epochs, [record.kl for record in records], label="KL")
    _exclude_first_epochs(bound, drawn)
    _exclude_first_epochs(reconstruction, [[record.reconstruction for record in records]])
    for axes in (bound, reconstruction, kl):
        axes.set(xlabel="epoch", ylabel="nats per image")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def _exclude_first_epochs(axes: Axes, curves: Sequence[Sequence[float]]) -> None:
    """Choose the vertical range without the first tenth of the epochs, which have far lower values."""
    shown = np.array([curve[len(curve) // 10 :] for curve in curves])
    least, most = np.nanmin(shown), np.nanmax(shown)
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


def _pairs(rows: Tensor) -> Images:
    """Arrange rows of originals, each above its reconstructions, with labels and a gap between the pairs."""
    pairs = [_grid(pair) for pair in torch.split(rows, 2)]
    labels = [_labels(picture.shape[0]) for picture in pairs]
    labelled = [np.concatenate(both, axis=1) for both in zip(labels, pairs, strict=True)]
    gap = np.full((GAP, *labelled[0].shape[1:]), 255, np.uint8)
    return np.concatenate([part for pair in labelled for part in (pair, gap)][:-1])


def _labels(height: int) -> Images:
    """Draw the labels of a pair of rows of this height, uint8 [height, LABEL_WIDTH, 3]."""
    canvas = Image.new("RGB", (LABEL_WIDTH, height), "white")
    font = ImageFont.load_default(LABEL_SIZE)
    for row, text in enumerate(("original", "reconstruction")):
        middle = (LABEL_WIDTH - 6, height * (2 * row + 1) / 4)
        ImageDraw.Draw(canvas).text(middle, text, "black", font, anchor="rm")
    return np.asarray(canvas)


def _grid(rows: Tensor) -> Images:
    """Arrange rows of images [R, n, C, H, W] as one uint8 image [height, width, 3]; small images are enlarged."""
    levels = to_grey_levels(rows.cpu())
    count, columns, _, height, width = levels.shape
    grid = levels.permute(0, 3, 1, 4, 2).reshape(count * height, columns * width, -1)
    colour = grid.expand(-1, -1, 3).numpy()
    factor = max(1, 56 // max(height, width))
    return np.ascontiguousarray(colour.repeat(factor, axis=0).repeat(factor, axis=1))
