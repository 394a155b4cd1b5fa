"""Test of batch invariance: whether a row gets the same bits in batches of all sizes.

The operations are elementwise products, sums and functions. Results can differ through the summation order in the
networks, and through functions that compute the last elements of a tensor otherwise than those before.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import inf

import torch
from torch import Tensor

from app.batching.rows import RowBatch
from app.runtimes.onnx_operations import LATENTS, PIXELS, OnnxOperation
from model.interface import ImageModel, ModelSpec

CPU = torch.device("cpu")

_Compute = Callable[..., Iterable[Tensor]]


def model_is_batch_invariant(
    model: ImageModel, sizes: Sequence[int], single: ImageModel, device: torch.device = CPU, until: float = inf
) -> bool:
    """Whether each row of batches of these sizes has the posterior, draw and likelihood that `single` gives it alone.

    A row alone is padded with zeros to the least of the sizes. The input is noise: the choice of kernels does not
    depend on the values, and of thousands of random sums that are added in another order some round differently. False
    as well if that is not known `until` then, in seconds of `time.monotonic`.
    """
    if max(sizes) == 1 and single is model:
        return True
    generator = torch.Generator().manual_seed(0)
    shapes = model.spec.image_shape, model.spec.latent_shape
    columns = [torch.randn(max(sizes), *shape, generator=generator).to(device) for shape in shapes]
    return _is_invariant(partial(_outputs, model), partial(_outputs, single), columns, sizes, until)


def graph_is_batch_invariant(graph: OnnxOperation, spec: ModelSpec, sizes: Sequence[int], until: float = inf) -> bool:
    """Whether a graph of an operation gives each row the same bits in batches of all sizes, tested likewise."""
    generator, rows = torch.Generator().manual_seed(0), max(sizes)
    inputs = {
        PIXELS: torch.randint(0, 256, (rows, *spec.image_shape), generator=generator, dtype=torch.uint8),
        LATENTS: torch.randn(rows, *spec.latent_shape, generator=generator),
    }

    def compute(*columns: Tensor) -> Iterable[Tensor]:
        return map(torch.from_numpy, graph.run_unrounded(RowBatch(tuple(c.numpy() for c in columns))).columns)

    return _is_invariant(compute, compute, [inputs[name] for name in graph.input_names], sizes, until)


def _is_invariant(
    compute: _Compute, compute_single: _Compute, columns: Sequence[Tensor], sizes: Sequence[int], until: float
) -> bool:
    rows = []
    for row in range(max(sizes)):
        if time.monotonic() > until:
            return False
        rows.append(compute_single(*(_padded_row(column, row, min(sizes)) for column in columns)))
    singles = [torch.cat([output[:1] for output in column]) for column in zip(*rows, strict=True)]
    return all(
        time.monotonic() <= until and torch.equal(batched, separate[:size])
        for size in sizes
        for batched, separate in zip(compute(*(column[:size] for column in columns)), singles, strict=True)
    )


def _padded_row(column: Tensor, row: int, size: int) -> Tensor:
    return torch.cat([column[row : row + 1], torch.zeros_like(column[1:size])])


def _outputs(model: ImageModel, x: Tensor, z: Tensor) -> Iterable[Tensor]:
    q, p = model.posterior(x), model.likelihood(z)
    parameters = [getattr(p, "logits", p.mean), *getattr(p, "extra_params", ())]
    moments = (q.mean,) if q.logvar is None else (q.mean, q.logvar)
    return *moments, q.reparameterize(z), *parameters, p.mean
