"""Small models with random weights."""

from pathlib import Path

import torch

from model.checkpoint import write_checkpoint
from model.config import VAEConfig
from model.vae import VAE

DIGITS = VAEConfig(image_shape=(1, 8, 8), latent_shape=(4,), stride=2, channels=(8, 8), blocks=(1, 0), hidden=(24,))
COLOUR = VAEConfig(
    image_shape=(3, 13, 9), latent_shape=(2, 4, 3), stride=2, channels=(6, 6), blocks=(0, 1), likelihood="logistic"
)
COMPUTE_BOUND = VAEConfig(image_shape=(1, 64, 64), latent_shape=(1, 16, 16), channels=(48, 48, 48), blocks=(1, 1, 1))
"""Some 0.6 GFLOP an image."""

LARGE = VAEConfig(image_shape=(3, 256, 256), latent_shape=(4, 16, 16), stride=2, channels=(2, 2, 2, 2), blocks=(0,) * 4)
"""A model of large images, 192 KiB each, that takes little time."""


def build(config: VAEConfig, seed: int = 0) -> VAE:
    """A VAE with random weights everywhere, also where the initial value is zero."""
    torch.manual_seed(seed)
    vae = VAE(config)
    with torch.no_grad():
        for weight in vae.parameters():
            weight.copy_(torch.randn_like(weight) * (0.5 / max(1, weight[0].numel()) ** 0.5))
    return vae.eval()


def write(folder: Path, config: VAEConfig) -> Path:
    write_checkpoint(folder, config, build(config).state_dict())
    return folder
