"""Whether a row gets the same bits whoever shares its batch.

Each sum, product and quotient is rounded in one way alone. What may differ is the order in which a network adds up, and
the last elements of a tensor, for which some functions take another way than for those before.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from model.vae import VAE

CPU = torch.device("cpu")


def keeps_rows_apart(vae: VAE, sizes: Sequence[int], lone: VAE, device: torch.device = CPU) -> bool:
    """Whether each row of batches of these sizes has the posterior, draw and likelihood that `lone` gives it by itself.

    By itself a row has zeros after it, up to the least of the sizes. Tried with noise: which way is taken does not
    depend on the numbers, and of thousands of random sums that are added up in another order some round otherwise.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = vae.config.image_shape, vae.config.latent_shape
    x, z = (torch.randn(max(sizes), *shape, generator=generator).to(device) for shape in shapes)
    rows = [_told(lone, *(_by_itself(column, row, min(sizes)) for column in (x, z))) for row in range(len(x))]
    alone = [torch.cat([told[:1] for told in column]) for column in zip(*rows, strict=True)]
    return all(
        torch.equal(together, separate[:size])
        for size in sizes
        for together, separate in zip(_told(vae, x[:size], z[:size]), alone, strict=True)
    )


def _by_itself(column: Tensor, row: int, size: int) -> Tensor:
    return torch.cat([column[row : row + 1], torch.zeros_like(column[1:size])])


def _told(vae: VAE, x: Tensor, z: Tensor) -> Iterator[Tensor]:
    q, p = vae.posterior(x), vae.likelihood(z)
    yield from (q.mean, q.logvar, q.at(z), p.location, *p.rest, p.mean)
