"""Statistics of an image under a model, from which its typicality is computed (Morningstar et al., 2021).

All are computed at the mean of the posterior, without draws: a seed does not change them.

    reconstruction          log p(x|mu), nats                                       of a model with a density
    kl                      KL(q(z|x) || N(0, I)), nats                             of a posterior with a variance
    squared_error           mean of (x - E[x|mu])^2
    largest_residual        max |x - E[x|mu]|
    largest_patch_residual  max |mean of x - E[x|mu] over a square of a seventh of the shorter side|
    norm                    |mu|^2
    spread                  sum of log sigma^2                                      of a posterior with a variance
    relative_sharpness      log h(x) - log h(E[x|mu]), h the mean of (x - mean of x over 3 x 3 pixels)^2
    relative_contrast       log c(x) - log c(E[x|mu]), c the mean of g^2 over that of |g|, g between neighbours

The last two compare image and reconstruction: a reconstruction is blurred, so that a blurred image is as sharp as its
own. A statistic that changes gets a new name, since calibrations name those that they use.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, avg_pool2d

from model.gaussian import DiagonalGaussian
from model.interface import DeterministicCode, ImageModel, ModelSpec

MAX_CODE = 128
"""Values of a code. Those of a larger latent are means of neighbouring values."""

PATCHES = 7
"""Patches along the shorter side of an image."""

TINY = 1e-6
"""Added to means of squares before their logarithm: a quarter of a grey level."""


class Statistics(NamedTuple):
    """`values` [B, S], in the order of `statistic_names`, and the `code` [B, J]: the mean of the posterior."""

    values: Tensor
    code: Tensor


def statistic_names(spec: ModelSpec) -> tuple[str, ...]:
    """Return the names of the statistics that a model defines."""
    errors = ("squared_error", "largest_residual", "largest_patch_residual", "norm")
    density, variance = ("reconstruction",) * (spec.likelihood is not None), spec.has_variance
    edges = ("relative_sharpness", "relative_contrast")
    return (*density, *(("kl",) * variance), *errors, *(("spread",) * variance), *edges)


def code_length(spec: ModelSpec) -> int:
    """Return the number J of values of a code."""
    return min(MAX_CODE, spec.latent_values)


def image_statistics(model: ImageModel, x: Tensor, q: DiagonalGaussian | DeterministicCode | None = None) -> Statistics:
    """Compute the statistics of images x of [B, C, H, W] in [0, 1]; `q` is their posterior if it is known."""
    q = q or model.posterior(x)
    p = model.likelihood(q.mean)
    residual = x - p.mean
    found = {
        "squared_error": residual.square().mean((-3, -2, -1)),
        "largest_residual": residual.abs().amax((-3, -2, -1)),
        "largest_patch_residual": _patch_means(residual).abs().amax((-3, -2, -1)),
        "norm": q.mean.square().flatten(1).sum(1),
        "relative_sharpness": _relative(_log_sharpness, x, p.mean),
        "relative_contrast": _relative(_log_contrast, x, p.mean),
    }
    if model.spec.likelihood is not None:
        found["reconstruction"] = p.log_prob(x)
    if isinstance(q, DiagonalGaussian):
        found |= {"kl": q.kl_to_standard(), "spread": q.logvar.flatten(1).sum(1)}
    values = torch.stack([found[name].float() for name in statistic_names(model.spec)], 1)
    return Statistics(values, adaptive_avg_pool1d(q.mean.flatten(1).float()[:, None], code_length(model.spec))[:, 0])


def _patch_means(residual: Tensor) -> Tensor:
    side = max(1, min(residual.shape[-2:]) // PATCHES)
    return avg_pool2d(residual, side, stride=max(1, side // 4))


def _relative(measure: Callable[[Tensor], Tensor], x: Tensor, reconstruction: Tensor) -> Tensor:
    """Return a measure of images minus that of their reconstructions, [B]; one call takes less time than two."""
    of_images, of_reconstructions = measure(torch.cat([x, reconstruction])).chunk(2)
    return of_images - of_reconstructions


def _log_sharpness(x: Tensor) -> Tensor:
    details = x - avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    return torch.log(details.square().mean((-3, -2, -1)) + TINY)


def _log_contrast(x: Tensor) -> Tensor:
    differences = torch.cat([x.diff(dim=-1).flatten(1), x.diff(dim=-2).flatten(1)], 1)
    values = x[0].numel()
    squares, sums = differences.square().sum(1), differences.abs().sum(1)
    return torch.log(squares / values + TINY) - torch.log(sums / values + TINY)
