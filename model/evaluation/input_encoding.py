"""What the encoder should be given of a grey image, where training drew its pixels black or white: the evidence.

An input is good whose reconstruction is close to the image, and whose posterior agrees with those of the draws that
the model was trained on: KL(q(z|draw) || q(z|input)) is small.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.data.arrays import Images, batches
from model.pixels import sample_binary, to_unit_interval
from model.vae import VAE


@dataclass(frozen=True, slots=True)
class ReconstructionQuality:
    """`error` is the root mean square of reconstruction minus image, in [0, 1]; `divergence` the mean KL in nats."""

    error: float
    divergence: float


@torch.inference_mode()
def compare_inputs(vae: VAE, images: Images, draws: int = 8, seed: int = 0) -> dict[str, ReconstructionQuality]:
    """How well each way to encode uint8 images [N, C, H, W] does, over `draws` binarisations of each."""
    device, generator = next(vae.parameters()).device, torch.Generator().manual_seed(seed)
    sums: dict[str, Tensor] = {}
    for levels in map(torch.tensor, batches(images)):
        drawn = [vae.posterior(sample_binary(levels, generator).to(device)) for _ in range(draws)]
        for name, x in _inputs(levels, generator).items():
            q = vae.posterior(x.to(device))
            squares = ((vae.likelihood(q.mean).mean - to_unit_interval(levels.to(device))) ** 2).mean((1, 2, 3)).sum()
            divergences = torch.stack([p.kl_to(q) for p in drawn]).mean(0).sum()
            sums[name] = sums.get(name, torch.zeros(2)) + torch.stack([squares, divergences]).cpu()
    means = {name: (both / len(images)).tolist() for name, both in sums.items()}
    return {name: ReconstructionQuality(square**0.5, divergence) for name, (square, divergence) in means.items()}


def _inputs(levels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    x = to_unit_interval(levels)
    return {"grey": x, "threshold": (x >= 0.5).float(), "draw": sample_binary(levels, generator)}
