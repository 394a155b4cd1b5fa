"""Whether a row gets the same bits whoever shares its batch.

Each sum, product and quotient is rounded in one way alone. What may differ is the order in which a network adds up, and
the last elements of a tensor, for which some functions take another way than for those before.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from model.vae import VAE


def keeps_rows_apart(vae: VAE, sizes: Sequence[int], lone: VAE) -> bool:
    """Whether each row of batches of these sizes has the posterior, draw and likelihood that `lone` gives it.

    Tried with noise: which way is taken does not depend on the numbers, and of thousands of random sums that are added
    up in another order some are rounded otherwise. For a VAE on a CPU.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = vae.config.image_shape, vae.config.latent_shape
    x, z = (torch.randn(max(sizes), *shape, generator=generator) for shape in shapes)
    rows = [_told(lone, x[row : row + 1], z[row : row + 1]) for row in range(len(x))]
    alone = [torch.cat(column) for column in zip(*rows, strict=True)]
    return all(
        torch.equal(together, separate[:size])
        for size in sizes
        for together, separate in zip(_told(vae, x[:size], z[:size]), alone, strict=True)
    )


def _told(vae: VAE, x: Tensor, z: Tensor) -> Iterator[Tensor]:
    q, p = vae.posterior(x), vae.likelihood(z)
    yield from (q.mean, q.logvar, q.at(z), p.location, *p.rest, p.mean)
