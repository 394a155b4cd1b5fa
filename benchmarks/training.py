"""Images per second of a training step beside a plain PyTorch loop of the same network, batch and optimiser.

    python -m benchmarks.training --rounds 9

The plain loop has no average of the weights, no limit of the gradient's norm and no figures of its progress. Rounds
alternate between both; the table has the medians and the quartiles of the ratio.
"""

import argparse
import sys
import time
from collections.abc import Callable
from itertools import cycle
from statistics import median, quantiles

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from model.config import VAEConfig
from model.device import autocast
from model.training.options import TrainingOptions
from model.training.trainer import Training, new_vae

IMAGES = 4096
WARMUP_STEPS = 3

DIGITS = VAEConfig(
    image_shape=(1, 28, 28), latent_shape=(32,), stride=2, channels=(32, 32), blocks=(1, 1), hidden=(450,)
)
MLP = VAEConfig(image_shape=(1, 28, 28), latent_shape=(32,), hidden=(400,), channels=(), blocks=())
CONFIGS = {"mnist, as shipped": DIGITS, "MLP, one layer of 400": MLP}

Step = Callable[[Tensor], object]


def plain_step(config: VAEConfig, images: Tensor, options: TrainingOptions) -> Step:
    """Return a training step as one writes it by hand, from the rows of a batch."""
    vae = new_vae(config, options.seed).to(images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
    optimizer = torch.optim.Adam(vae.parameters(), lr=options.learning_rate, fused=True)

    def step(rows: Tensor) -> None:
        x = torch.bernoulli(images[rows] / 255).contiguous(memory_format=torch.channels_last)
        with autocast(options.precision, x.device):
            mean, logvar = vae.encoder.network(2 * x - 1).float().chunk(2, dim=1)
            z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
            logits = vae.decoder.network(z).float()
            kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum()
            loss = (binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl) / len(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def images_per_second(step: Step, batches: list[Tensor], seconds: float) -> float:
    """Take steps for some seconds."""
    start, seen = time.perf_counter(), 0
    for rows in cycle(batches):
        step(rows)
        seen += len(rows)
        if batches[0].device.type == "cuda" and seen % (64 * len(rows)) == 0:
            torch.cuda.synchronize()
        if time.perf_counter() - start >= seconds:
            break
    if batches[0].device.type == "cuda":
        torch.cuda.synchronize()
    return seen / (time.perf_counter() - start)


def compare(config: VAEConfig, options: TrainingOptions, device: str, rounds: int, seconds: float) -> str:
    """Return a row of the table: images per second of both, and the ratio."""
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, *config.image_shape), dtype=np.uint8)
    training = Training(config, pixels, options, device)
    plain = plain_step(config, training.images, options)
    batches = list(torch.split(torch.arange(IMAGES, device=device), options.batch_size))
    for rows in batches[:WARMUP_STEPS]:
        training.train_on(rows)
        plain(rows)
    ours: list[float] = []
    others: list[float] = []
    for number in range(rounds):
        both = [(training.train_on, ours), (plain, others)]
        for step, found in both if number % 2 else both[::-1]:
            found.append(images_per_second(step, batches, seconds))
    ratios = [own / other for own, other in zip(ours, others, strict=True)]
    low, _, high = quantiles(ratios, n=4)
    return f"{median(ours):.0f} | {median(others):.0f} | {median(ratios):.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sys.stdout.write("| network | precision | vae train | plain loop | ratio |\n|---|---|---|---|---|\n")
    for name, config in CONFIGS.items():
        for precision in ("float32", "bfloat16"):
            options = TrainingOptions(batch_size=arguments.batch_size, precision=precision)
            row = compare(config, options, arguments.device, arguments.rounds, arguments.seconds)
            sys.stdout.write(f"| {name} | {precision} | {row} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
