"""Comparison of the responses of all systems, before anything is measured."""

import io

import httpx
import numpy as np
import orjson
from PIL import Image

LATENT_TOLERANCE = 1e-4
LEVELS = 1
"""Tolerances for a different order of additions: absolute for latents, in grey levels for pixels."""


class DifferentAnswers(Exception):
    """A system returns another result than the service."""


def require_equal(name: str, got: httpx.Response, expected: bytes) -> None:
    """Raise `DifferentAnswers` if a response differs by more than the tolerance."""
    got.raise_for_status()
    (ours, wanted), most = (_latents if expected.startswith(b"{") else _pixels)(got.content, expected)
    off = float(np.abs(ours - wanted).max())
    if ours.shape != wanted.shape or off > most:
        raise DifferentAnswers(
            f"{name}: {list(ours.shape)}, off by {off:g}; expected {list(wanted.shape)} within {most:g}"
        )


def _latents(*bodies: bytes) -> tuple[list[np.ndarray], float]:
    posteriors = [orjson.loads(body)["latents"][0] for body in bodies]
    return [np.array([q["mean"], q["logvar"]]) for q in posteriors], LATENT_TOLERANCE


def _pixels(*bodies: bytes) -> tuple[list[np.ndarray], float]:
    return [np.asarray(Image.open(io.BytesIO(body)), float) for body in bodies], LEVELS
