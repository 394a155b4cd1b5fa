"""Comparison of the graph of each operation with torch, on random input, when a model is loaded.

A graph repeats the formulas around the networks, such as the mean of a likelihood, which a likelihood may override.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from app.batching.rows import RowBatch
from app.runtimes.onnx_operations import LATENTS, PIXELS, OnnxOperation
from app.runtimes.operations import OPERATIONS
from model.vae import VAE

ROWS = 4
"""Rows of random input that are compared."""

TOLERANCE = 1e-3
"""Largest difference of two numbers, absolute and relative. Two orders of summation differ by a hundredth of it."""


@torch.inference_mode()
def differing(vae: VAE, graphs: Mapping[str, OnnxOperation]) -> Iterator[str]:
    """Yield the operations of graphs that give other numbers than torch, or pixels that differ by 2 grey levels."""
    generator = np.random.default_rng(0)
    columns = {
        PIXELS: generator.integers(0, 256, (ROWS, *vae.config.image_shape), np.uint8),
        LATENTS: generator.standard_normal((ROWS, *vae.config.latent_shape), np.float32),
    }
    for operation, graph in graphs.items():
        inputs = tuple(columns[name] for name in graph.input_names)
        expected = [column.numpy() for column in OPERATIONS[operation](vae, *map(torch.from_numpy, inputs))]
        if not all(map(_agree, graph.run(RowBatch(inputs)).columns, expected)):
            yield operation


def _agree(found: np.ndarray, expected: np.ndarray) -> bool:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if expected.dtype == np.uint8:  # a mean between two levels may be rounded to either
        return bool(np.abs(found.astype(int) - expected).max() <= 1)
    return np.allclose(found, expected, TOLERANCE, TOLERANCE, equal_nan=True)
