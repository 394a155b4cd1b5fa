"""Images that are not of the training kind, to see whether a model's ELBO tells them apart."""

from string import ascii_letters

import numpy as np
import torch

from model.arrays import Images
from model.data import draw_letter
from model.elbo import elbo
from model.reference import Reference, Scores
from model.vae import VAE


def strangers(images: Images, seed: int = 0) -> dict[str, Images]:
    """As many of each kind as there are images, uint8 [N, C, H, W], by their names."""
    rng = np.random.default_rng(seed)
    return {
        "noise": rng.integers(0, 256, images.shape, np.uint8),
        "inverted": 255 - images,
        "upside down": np.ascontiguousarray(images[..., ::-1, ::-1]),
        "letters": letters(images.shape, rng),
    }


def letters(shape: tuple[int, ...], rng: np.random.Generator) -> Images:
    """White letters of a font on black, of several sizes, uint8 of `shape` [N, C, H, W]."""
    _, channels, height, width = shape
    sizes = range(round(0.6 * min(height, width)), round(0.95 * min(height, width)) + 1)
    drawn = np.stack([draw_letter(letter, size, height, width) for letter in ascii_letters for size in sizes])
    chosen = drawn[rng.integers(len(drawn), size=shape[0])]
    return np.repeat(chosen[:, None], channels, axis=1)


def measure_reference(vae: VAE, images: Images, seed: int = 0) -> Reference:
    """What /score compares with: the ELBOs of held-out images, uint8 [N, C, H, W], as they are served."""
    foreign = {name: elbos(vae, others, seed) for name, others in strangers(images, seed).items()}
    return Reference.of(elbos(vae, images, seed), foreign)


@torch.inference_mode()
def elbos(vae: VAE, images: Images, seed: int = 0, batch_size: int = 200) -> Scores:
    """The ELBO of each image by one draw, [N] nats; grey levels as they are."""
    device = next(vae.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    totals = []
    for levels in torch.split(torch.tensor(images), batch_size):
        noise = torch.randn((1, len(levels), *vae.config.latent_shape), generator=generator)
        totals.append(elbo(vae, levels.to(device) / 255, noise=noise.to(device)).total.cpu())
    return torch.cat(totals).numpy()
