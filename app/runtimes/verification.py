"""Comparison of an operation's program with torch, on random input, when a model is loaded.

A program repeats the formulas around the networks, such as the mean of a likelihood, which a likelihood may override.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from app.runtimes.onnx_program import LATENTS, PIXELS, OnnxOperation
from app.runtimes.operations import OPERATIONS
from model.vae import VAE

ROWS = 4
"""Rows of random input that are compared."""

TOLERANCE = 1e-3
"""Largest difference of two numbers, absolute and relative; two orders of summation differ by a hundredth of it."""


@torch.inference_mode()
def differing(vae: VAE, programs: Mapping[str, OnnxOperation]) -> Iterator[str]:
    """The operations whose programs give other results than `vae` by torch: other numbers, or pixels 2 levels apart."""
    generator = np.random.default_rng(0)
    columns = {
        PIXELS: generator.integers(0, 256, (ROWS, *vae.config.image_shape), np.uint8),
        LATENTS: generator.standard_normal((ROWS, *vae.config.latent_shape), np.float32),
    }
    for operation, program in programs.items():
        taken = [columns[name] for name in program.takes]
        expected = [column.numpy() for column in OPERATIONS[operation](vae, *map(torch.from_numpy, taken))]
        if not all(map(_agree, program(*taken), expected)):
            yield operation


def _agree(found: np.ndarray, expected: np.ndarray) -> bool:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if expected.dtype == np.uint8:  # a mean that lies between two levels may be rounded to either
        return bool(np.abs(found.astype(int) - expected).max() <= 1)
    return np.allclose(found, expected, TOLERANCE, TOLERANCE, equal_nan=True)
