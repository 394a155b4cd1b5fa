"""Models of the benchmarks: the shipped one, and a larger one with random weights."""

from pathlib import Path

import torch

from model.checkpoint import DEFAULT, write_checkpoint
from model.config import VAEConfig
from model.vae import VAE

LARGER = VAEConfig(
    image_shape=(3, 64, 64),
    latent_shape=(128,),
    stride=2,
    channels=(64, 128, 256),
    blocks=(2, 2, 2),
    hidden=(512,),
    likelihood="logistic",
)
"""About 1 GFLOP an image, each way."""


def folders(scratch: Path) -> dict[str, Path]:
    """The folder of each model, with the larger one written to `scratch`."""
    larger = scratch / "larger"
    torch.manual_seed(0)
    write_checkpoint(larger, LARGER, VAE(LARGER).state_dict())
    return {"small": DEFAULT, "larger": larger}
