"""Results of the calls, the error of a call, and how the results of several requests become one."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Problem(Exception):
    """An error response: its status, title and detail, and the request id under which the service has logged it.

    The detail names images and latents by their places in the argument of the call, also if that was divided. A
    response that cannot be read, or has other items than the request, is a problem as well, with the status that it
    came with and the title "Unreadable response".
    """

    def __init__(self, status: int, title: str, detail: str, request_id: str = "") -> None:
        super().__init__(status, title, detail, request_id)
        self.status, self.title, self.detail, self.request_id = status, title, detail, request_id

    def __str__(self) -> str:
        return f"{self.status} {self.title}: {self.detail}"


class Encoded(NamedTuple):
    """q(z|x): `mean` and `logvar` [N, *latent], the draws `z` [L, N, *latent] (L is 0 without samples), their seed.

    The `logvar` of a deterministic encoder is minus infinity: the variance is 0.
    """

    mean: np.ndarray
    logvar: np.ndarray
    z: np.ndarray
    seed: int | None


class Sampled(NamedTuple):
    """Images, uint8 [N, H, W, C], and the seed that reproduces them."""

    images: np.ndarray
    seed: int


class Scored(NamedTuple):
    """Scores of each image, [N], in nats, higher is better; `log_likelihood` only with samples.

    `bits_per_dim`, of the masses of the 8-bit levels, is better the lower it is. `percentile`, 0 to 100, is the rank of
    each ELBO among those of the images on which the model was evaluated; None without an evaluation. Of a model without
    a density, `squared_error` is the mean of the reconstruction's squared error, `psnr` its ratio in decibels, and what
    is not defined is NaN.
    `typicality`, 0 to 1, is the two-sided p-value of an image among those by which the model was calibrated; None
    without a calibration. `anomalous` says with `alpha` whether it is at most that.
    """

    elbo: np.ndarray
    reconstruction: np.ndarray
    kl: np.ndarray
    bits_per_dim: np.ndarray
    percentile: np.ndarray | None
    log_likelihood: np.ndarray | None
    seed: int | None
    squared_error: np.ndarray | None = None
    psnr: np.ndarray | None = None
    typicality: np.ndarray | None = None
    anomalous: np.ndarray | None = None


def join_arrays(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate the rows of several responses; raises `ValueError` for images or latents of different sizes."""
    if len(parts) == 1:
        return parts[0]
    shape = parts[0].shape[1:]
    for part in parts:
        if part.shape[1:] != shape:
            raise ValueError(
                f"images: expected one size in a call, got results of {list(shape)} and {[*part.shape[1:]]}"
            )
    return np.concatenate(parts)


def join_encoded(parts: Sequence[Encoded]) -> Encoded:
    """Join posteriors along the images."""
    z = [part.z.swapaxes(0, 1) for part in parts]
    mean, logvar, z = (join_arrays(rows) for rows in ([p.mean for p in parts], [p.logvar for p in parts], z))
    return Encoded(mean, logvar, z.swapaxes(0, 1), parts[0].seed)


def join_sampled(parts: Sequence[Sampled]) -> Sampled:
    """Join samples; the seed of the first part is that of the call."""
    return Sampled(join_arrays([part.images for part in parts]), parts[0].seed)


def join_scored(parts: Sequence[Scored]) -> Scored:
    """Join the columns of scores."""
    first = parts[0]
    columns = {name: [getattr(part, name) for part in parts] for name in Scored._fields if name != "seed"}
    joined = {name: None if rows[0] is None else np.concatenate(rows) for name, rows in columns.items()}
    return Scored(**joined, seed=first.seed)  # type: ignore[arg-type]  # the required columns are never None
