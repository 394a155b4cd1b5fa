"""Latents of a request body, from JSON or .npy to float32 [N, *latent] of the served model's latent shape."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from app.errors import Unusable
from app.findings import came, quoted
from app.npy import Header, read_array
from app.parsing import parsed, require_items
from app.schemas import LatentsIn, Posterior

MAX_LATENT = 1e6
"""Far beyond any latent of a N(0, I) prior, and far below what float32 overflows at."""

ENVELOPE = 16
"""Values and names in the JSON of latents besides the latents themselves: their shape, the model's name."""


def latents_of_json(body: bytes, shape: Sequence[int], model: str, max_items: int) -> np.ndarray:
    """The latents of a JSON body; of an answer of /encode the means.

    `model` is the name and digest of the served model. Raises `Malformed` for what is no JSON, `TooLarge` for more
    than `max_items` latents, `Unusable` for latents of another shape, of another model, or beyond `MAX_LATENT`.
    """
    most = 3 * max_items  # of an answer of /encode: means and logvars of all items, and as many draws
    sent = parsed(LatentsIn, body, values=most * (prod(shape) + 1) + ENVELOPE, names=most + ENVELOPE)
    require_items(len(sent.latents), max_items)
    _check_origin(sent, shape, model)
    rows = [_mean(item, index, shape) for index, item in enumerate(sent.latents)]
    return _within_range(np.stack(rows))


def latents_of_npy(body: bytes, header: Header, shape: Sequence[int]) -> np.ndarray:
    """The latents of an .npy body whose header `check_header` took; of an answer of /encode the means."""
    array = read_array(body, header)
    return _within_range(array[0] if _is_table(header, shape) else array)


def check_header(header: Header, shape: Sequence[int], max_items: int) -> None:
    """Refuse an .npy body by its header: `Unusable` for another type or shape, `TooLarge` for too many latents."""
    table = header.shape[1:] if _is_table(header, shape) else header.shape
    if header.type_name not in ("float32", "float64") or not table or table[1:] != tuple(shape) or not table[0]:
        wanted = ", ".join(["N", *map(str, shape)])
        raise Unusable(f"expected a float32 array [{wanted}], got {header}")
    require_items(table[0], max_items)


def _check_origin(sent: LatentsIn, shape: Sequence[int], model: str) -> None:
    """Refuse an answer of /encode of another model: its latents decode to something else here."""
    if sent.shape is not None and sent.shape != list(shape):
        got = ", ".join(map(came, sent.shape[:8])) + (", ..." if len(sent.shape) > 8 else "")
        raise Unusable(f"shape: expected {list(shape)}, the shape of one latent of {model}, got [{got}]")
    digest = model.rpartition(":")[2]
    if sent.model is not None and sent.model.rpartition(":")[2] != digest:
        raise Unusable(
            f"model: expected latents of {quoted(model)}, which is served, got those of {quoted(sent.model)}"
        )


def _mean(item: Any, index: int, shape: Sequence[int]) -> np.ndarray:
    if not isinstance(item, Posterior):
        return _latent(item, shape, index)
    _latent(item.logvar, shape, index, ".logvar")
    for draw, z in enumerate(item.z or ()):
        _latent(z, shape, index, f".z[{draw}]")
    return _latent(item.mean, shape, index, ".mean")


def _latent(value: Any, shape: Sequence[int], index: int, field: str = "") -> np.ndarray:
    try:
        row = np.array(value, np.float64)
    except ValueError:
        raise Unusable(f"latents[{index}]{field}: expected lists of equal length") from None
    if row.shape != tuple(shape):
        wanted, got = (" x ".join(map(str, dimensions)) for dimensions in (shape, row.shape))
        raise Unusable(f"latents[{index}]{field}: expected {wanted} numbers, got {got}")
    return row


def _within_range(latents: np.ndarray) -> np.ndarray:
    usable = np.abs(latents) <= MAX_LATENT
    if not usable.all():
        index = int(np.argwhere(~usable)[0, 0])
        raise Unusable(f"latents[{index}]: expected finite numbers between {-MAX_LATENT:.0f} and {MAX_LATENT:.0f}")
    return np.ascontiguousarray(latents, np.float32)


def _is_table(header: Header, shape: Sequence[int]) -> bool:
    """Whether it is an answer of /encode, [2 + L, N, *latent]: means, logvars and draws."""
    return len(header.shape) == len(shape) + 2 and header.shape[0] > 0
