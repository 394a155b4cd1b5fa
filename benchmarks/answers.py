"""Before anything is timed: does everyone give the same answer?"""

import io

import httpx
import numpy as np
import orjson
from PIL import Image

LATENT_TOLERANCE = 1e-4
LEVELS = 1
"""What the order of additions may change: the fifth digit of a latent, one of 255 levels of a pixel."""


class DifferentAnswers(Exception):
    """Somebody does other work than the rest."""


def require_equal(name: str, got: httpx.Response, expected: bytes) -> None:
    """A `DifferentAnswers` says by how much the answer is off."""
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
