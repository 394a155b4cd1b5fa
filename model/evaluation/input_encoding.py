"""Comparison of ways to encode grey images for a model trained on binary pixels.

An encoding is good if its reconstruction is close to the image, and if its posterior agrees with those of the binary
draws that the model was trained on: KL(q(z|draw) || q(z|input)) is small.
"""

import torch
from torch import Tensor

from model.data.arrays import Images, batches
from model.pixels import sample_binary, to_unit_interval
from model.records import InputComparison, InputQuality
from model.vae import VAE


@torch.inference_mode()
def compare_inputs(vae: VAE, images: Images, draws: int = 8, seed: int = 0) -> InputComparison:
    """Measure the quality of each encoding of uint8 images [N, C, H, W], with `draws` binarisations per image."""
    device, generator = next(vae.parameters()).device, torch.Generator().manual_seed(seed)
    sums: dict[str, Tensor] = {}
    for levels in map(torch.tensor, batches(images)):
        binary = [vae.posterior(sample_binary(levels, generator).to(device)) for _ in range(draws)]
        original = to_unit_interval(levels.to(device))
        for name, x in _encodings(levels, generator).items():
            q = vae.posterior(x.to(device))
            squares = ((vae.likelihood(q.mean).mean - original) ** 2).mean((1, 2, 3)).sum()
            divergences = torch.stack([p.kl_to(q) for p in binary]).mean(0).sum()
            sums[name] = sums.get(name, torch.zeros(2)) + torch.stack([squares, divergences]).cpu()
    return InputComparison(**{name: _mean_quality(both, len(images)) for name, both in sums.items()})


def _encodings(levels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    x = to_unit_interval(levels)
    return {"grey": x, "threshold": (x >= 0.5).float(), "draw": sample_binary(levels, generator)}


def _mean_quality(sums: Tensor, images: int) -> InputQuality:
    square, divergence = (sums / images).tolist()
    return InputQuality(square**0.5, divergence)
