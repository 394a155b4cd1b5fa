"""Whether a row gets the same bits whoever shares its batch.

Each sum, product and quotient is rounded in one way alone. What may differ is the order in which a network adds up, and
the last elements of a tensor, for which some functions take another way than for those before.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import inf

import torch
from torch import Tensor

from app.runtimes.onnx_program import LATENTS, PIXELS, OnnxOperation
from model.config import VAEConfig
from model.vae import VAE

CPU = torch.device("cpu")

_Tell = Callable[..., Iterable[Tensor]]


def keeps_rows_apart(vae: VAE, sizes: Sequence[int], lone: VAE, device: torch.device = CPU, until: float = inf) -> bool:
    """Whether each row of batches of these sizes has the posterior, draw and likelihood that `lone` gives it by itself.

    By itself a row has zeros after it, up to the least of the sizes. Tried with noise: which way is taken does not
    depend on the numbers, and of thousands of random sums that are added up in another order some round otherwise.
    False as well where that is not known `until` then, in seconds of `time.monotonic`.
    """
    if max(sizes) == 1 and lone is vae:
        return True
    generator = torch.Generator().manual_seed(0)
    shapes = vae.config.image_shape, vae.config.latent_shape
    columns = [torch.randn(max(sizes), *shape, generator=generator).to(device) for shape in shapes]
    return _keeps_apart(partial(_told, vae), partial(_told, lone), columns, sizes, until)


def program_keeps_rows_apart(
    program: OnnxOperation, config: VAEConfig, sizes: Sequence[int], until: float = inf
) -> bool:
    """Whether a program gives each row of batches of these sizes the same; tried likewise."""
    generator, rows = torch.Generator().manual_seed(0), max(sizes)
    known = {
        PIXELS: torch.randint(0, 256, (rows, *config.image_shape), generator=generator, dtype=torch.uint8),
        LATENTS: torch.randn(rows, *config.latent_shape, generator=generator),
    }

    def tell(*columns: Tensor) -> Iterable[Tensor]:
        return map(torch.from_numpy, program.tell(*(column.numpy() for column in columns)))

    return _keeps_apart(tell, tell, [known[name] for name in program.takes], sizes, until)


def _keeps_apart(tell: _Tell, lone: _Tell, columns: Sequence[Tensor], sizes: Sequence[int], until: float) -> bool:
    rows = []
    for row in range(max(sizes)):
        if time.monotonic() > until:
            return False
        rows.append(lone(*(_by_itself(column, row, min(sizes)) for column in columns)))
    alone = [torch.cat([told[:1] for told in column]) for column in zip(*rows, strict=True)]
    return all(
        time.monotonic() <= until and torch.equal(together, separate[:size])
        for size in sizes
        for together, separate in zip(tell(*(column[:size] for column in columns)), alone, strict=True)
    )


def _by_itself(column: Tensor, row: int, size: int) -> Tensor:
    return torch.cat([column[row : row + 1], torch.zeros_like(column[1:size])])


def _told(vae: VAE, x: Tensor, z: Tensor) -> Iterable[Tensor]:
    q, p = vae.posterior(x), vae.likelihood(z)
    return q.mean, q.logvar, q.reparameterize(z), p.logits, *p.extra_params, p.mean
