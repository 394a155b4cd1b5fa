"""Images that are not of the training kind, to see whether a model's ELBO tells them apart."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from string import ascii_letters

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from model.data.arrays import Images, batches
from model.elbo import elbo
from model.elbo_percentiles import Reference, Scores
from model.pixels import to_unit_interval
from model.vae import VAE

KEPT = 2**26
"""Bytes of letters that are kept, so that those of small images are drawn once."""


def strangers(images: Images, seed: int = 0) -> dict[str, Iterator[Images]]:
    """As many of each kind as there are images, by their names, in batches: uint8 [B, C, H, W]."""
    return {
        "noise": _noise(images, np.random.default_rng(seed)),
        "inverted": (255 - batch for batch in batches(images)),
        "upside down": (np.ascontiguousarray(batch[..., ::-1, ::-1]) for batch in batches(images)),
        "letters": _letters(images, np.random.default_rng(seed)),
    }


def _noise(images: Images, rng: np.random.Generator) -> Iterator[Images]:
    return (rng.integers(0, 256, batch.shape, np.uint8) for batch in batches(images))


def _letters(images: Images, rng: np.random.Generator) -> Iterator[Images]:
    """White letters of a font on black, of several sizes; each is drawn when it is needed, and some are kept."""
    for _ in _noise(images, rng):
        pass  # in the stream of random numbers the choice of letters comes after the noise
    count, channels, height, width = images.shape
    least, most = (round(share * min(height, width)) for share in (0.6, 0.95))
    kinds = [(letter, size) for letter in ascii_letters for size in range(least, most + 1)]
    chosen = rng.integers(len(kinds), size=(count,))
    draw = lru_cache(maxsize=max(1, KEPT // (height * width)))(draw_letter)
    numbers = iter(chosen)
    for batch in batches(images):
        drawn = np.stack([draw(*kinds[number], height, width) for number in islice(numbers, len(batch))])
        yield np.repeat(drawn[:, None], channels, axis=1)


def draw_letter(letter: str, size: int, height: int, width: int) -> Images:
    """The letter in white on black, in the middle: uint8 [H, W]."""
    picture = Image.new("L", (width, height))
    font = ImageFont.load_default(size)
    ImageDraw.Draw(picture).text((width / 2, height / 2), letter, 255, font, anchor="mm")
    return np.asarray(picture)


def measure_reference(vae: VAE, images: Images, seed: int = 0) -> Reference:
    """What /score compares with: the ELBOs of held-out images, uint8 [N, C, H, W], as they are served."""
    foreign = {name: elbos(vae, others, seed) for name, others in strangers(images, seed).items()}
    return Reference.of(elbos(vae, batches(images), seed), foreign)


@torch.inference_mode()
def elbos(vae: VAE, images: Iterable[Images], seed: int = 0) -> Scores:
    """The ELBO of each image by one draw, [N] nats, for batches of uint8 [B, C, H, W]; grey levels as they are."""
    device = next(vae.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    totals = []
    for levels in map(torch.tensor, images):
        noise = torch.randn((1, len(levels), *vae.config.latent_shape), generator=generator)
        totals.append(elbo(vae, to_unit_interval(levels.to(device)), noise=noise.to(device)).total.cpu())
    return torch.cat(totals).numpy()
