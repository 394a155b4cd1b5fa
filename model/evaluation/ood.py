"""Out-of-distribution data sets, and ELBO percentiles that compare them with the evaluated images."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from string import ascii_letters

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from model.data.arrays import Images, batches
from model.elbo import SCORE_DRAWS, bounds
from model.elbo_percentiles import UNKNOWN_SPLIT, ElboPercentiles, Scores
from model.pixels import to_unit_interval
from model.vae import VAE

MAX_CACHED_BYTES = 2**26
"""Size of the cache of rendered letters; small images are rendered once."""


def ood_datasets(images: Images, seed: int = 0) -> dict[str, Iterator[Images]]:
    """Derive data sets of as many images as `images` uint8 [N, C, H, W], in batches of uint8 [B, C, H, W].

    The data sets are uniform noise, the images inverted, the images rotated by 180 degrees, and letters of a font.
    """
    return {
        "noise": _noise(images, np.random.default_rng(seed)),
        "inverted": (255 - batch for batch in batches(images)),
        "upside down": (np.ascontiguousarray(batch[..., ::-1, ::-1]) for batch in batches(images)),
        "letters": _letter_images(images, np.random.default_rng(seed)),
    }


def _noise(images: Images, rng: np.random.Generator) -> Iterator[Images]:
    return (rng.integers(0, 256, batch.shape, np.uint8) for batch in batches(images))


def _letter_images(images: Images, rng: np.random.Generator) -> Iterator[Images]:
    """Render random white letters of several sizes on black, batch by batch."""
    for _ in _noise(images, rng):
        pass  # letters are chosen by the random numbers that follow those of the noise, as earlier versions did
    count, channels, height, width = images.shape
    smallest, largest = (round(share * min(height, width)) for share in (0.6, 0.95))
    choices = [(letter, size) for letter in ascii_letters for size in range(smallest, largest + 1)]
    render = lru_cache(maxsize=max(1, MAX_CACHED_BYTES // (height * width)))(draw_letter)
    numbers = iter(rng.integers(len(choices), size=(count,)))
    for batch in batches(images):
        letters = np.stack([render(*choices[number], height, width) for number in islice(numbers, len(batch))])
        yield np.repeat(letters[:, None], channels, axis=1)


def draw_letter(letter: str, size: int, height: int, width: int) -> Images:
    """Render a letter in white at the centre of a black image, uint8 [H, W]."""
    canvas = Image.new("L", (width, height))
    font = ImageFont.load_default(size)
    ImageDraw.Draw(canvas).text((width / 2, height / 2), letter, 255, font, anchor="mm")
    return np.asarray(canvas)


def measure_elbo_percentiles(vae: VAE, images: Images, seed: int = 0, split: str = UNKNOWN_SPLIT) -> ElboPercentiles:
    """Compute the percentiles that /score reports, from uint8 images [N, C, H, W] encoded as they are served."""
    others = {name: elbos(vae, dataset, seed) for name, dataset in ood_datasets(images, seed).items()}
    return ElboPercentiles.from_scores(elbos(vae, batches(images), seed), others, split)


@torch.inference_mode()
def elbos(vae: VAE, images: Iterable[Images], seed: int = 0) -> Scores:
    """Return the ELBO of each image as it is scored, [N] nats, for batches of uint8 [B, C, H, W] not binarised."""
    device = next(vae.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    totals = []
    for levels in map(torch.tensor, images):
        noise = torch.randn((SCORE_DRAWS, len(levels), *vae.config.latent_shape), generator=generator)
        found = bounds(vae, to_unit_interval(levels.to(device)), SCORE_DRAWS, noise.to(device), chunk=1)
        totals.append(found.elbo.total.cpu())
    return torch.cat(totals).numpy()
