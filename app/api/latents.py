"""Latents of a request body, from JSON or .npy to float32 [N, *latent] of the served model's latent shape."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from app.api.schemas import LatentsIn, Posterior
from app.codecs.npy import Header, read_array
from app.errors import UnprocessableContent
from app.validation import came, parsed, quoted, require_items

MAX_LATENT = 1e6
"""Far beyond any latent of a N(0, I) prior, and far below what float32 overflows at."""

ENVELOPE = 16
"""Values and names in the JSON of latents besides the latents themselves: their shape, the model's name."""


def latents_of_json(body: bytes, shape: Sequence[int], model: str, max_items: int) -> np.ndarray:
    """The latents of a JSON body; of an answer of /encode the means.

    `model` is the name and digest of the served model. Raises `BadRequest` for what is no JSON, `ContentTooLarge` for
    more than `max_items` latents, `UnprocessableContent` for latents of another shape, of another model, or beyond
    `MAX_LATENT`.
    """
    most = 3 * max_items  # of an answer of /encode: means and logvars of all items, and as many draws
    arrays = sum(prod(shape[:depth]) for depth in range(len(shape)))  # of one latent, which are nested
    sent = parsed(
        LatentsIn,
        body,
        values=most * (prod(shape) + 1) + ENVELOPE,
        names=most + ENVELOPE,
        arrays=most * arrays + ENVELOPE + max_items,
    )
    require_items(len(sent.latents), max_items)
    _check_origin(sent, shape, model)
    posteriors = [(index, item) for index, item in enumerate(sent.latents) if isinstance(item, Posterior)]
    if posteriors:
        _check_posteriors(posteriors, shape)
    means = [item.mean if isinstance(item, Posterior) else item for item in sent.latents]

    def place(index: int) -> str:
        return f"latents[{index}]" + (".mean" if isinstance(sent.latents[index], Posterior) else "")

    return _within_range(_array(means, shape, place), place)


def latents_of_npy(body: bytes, header: Header, shape: Sequence[int]) -> np.ndarray:
    """The latents of an .npy body whose header `check_header` took; of an answer of /encode the means."""
    array = read_array(body, header)
    return _within_range(array[0] if _is_table(header, shape) else array)


def check_header(header: Header, shape: Sequence[int], max_items: int) -> None:
    """Refuse an .npy body by its header.

    Raises `UnprocessableContent` for another type or shape, `ContentTooLarge` for too many latents.
    """
    table = header.shape[1:] if _is_table(header, shape) else header.shape
    if header.type_name not in ("float32", "float64") or not table or table[1:] != tuple(shape) or not table[0]:
        wanted = ", ".join(["N", *map(str, shape)])
        raise UnprocessableContent(f"expected a float32 array [{wanted}], got {header}")
    require_items(table[0], max_items)


def _check_origin(sent: LatentsIn, shape: Sequence[int], model: str) -> None:
    """Refuse an answer of /encode of another model: its latents decode to something else here."""
    if sent.shape is not None and sent.shape != list(shape):
        got = ", ".join(map(came, sent.shape[:8])) + (", ..." if len(sent.shape) > 8 else "")
        raise UnprocessableContent(f"shape: expected {list(shape)}, the shape of one latent of {model}, got [{got}]")
    digest = model.rpartition(":")[2]
    if sent.model is not None and sent.model.rpartition(":")[2] != digest:
        raise UnprocessableContent(
            f"model: expected latents of {quoted(model)}, which is served, got those of {quoted(sent.model)}"
        )


def _check_posteriors(posteriors: Sequence[tuple[int, Posterior]], shape: Sequence[int]) -> None:
    """Refuse a posterior whose logvar or draws have not the shape of a latent; `posteriors` have their indices."""
    _array([item.logvar for _, item in posteriors], shape, lambda n: f"latents[{posteriors[n][0]}].logvar")
    draws = [(z, index, draw) for index, item in posteriors for draw, z in enumerate(item.z or ())]
    if draws:
        _array([z for z, *_ in draws], shape, lambda n: "latents[{1}].z[{2}]".format(*draws[n]))


def _array(values: list[Any], shape: Sequence[int], place: Callable[[int], str]) -> np.ndarray:
    """Convert lists of numbers to one array [N, *shape].

    `UnprocessableContent` names the `place` of the first list of another shape.
    """
    try:
        array = np.array(values, np.float64)
    except ValueError:  # they are not of one shape
        array = None
    if array is not None and array.shape[1:] == tuple(shape):
        return array
    return np.stack([_row(value, shape, place(index)) for index, value in enumerate(values)])


def _row(value: Any, shape: Sequence[int], place: str) -> np.ndarray:
    try:
        row = np.array(value, np.float64)
    except ValueError:
        raise UnprocessableContent(f"{place}: expected lists of equal length") from None
    if row.shape != tuple(shape):
        wanted, got = (" x ".join(map(str, dimensions)) for dimensions in (shape, row.shape))
        raise UnprocessableContent(f"{place}: expected {wanted} numbers, got {got}")
    return row


def _within_range(latents: np.ndarray, place: Callable[[int], str] = "latents[{}]".format) -> np.ndarray:
    """The latents as float32; `UnprocessableContent` names the `place` of the first value that is beyond the range."""
    usable = np.abs(latents) <= MAX_LATENT
    if not usable.all():
        item, *inner = np.unravel_index(int(np.argmin(usable)), usable.shape)
        where = place(int(item)) + "".join(f"[{index}]" for index in inner)
        value = float(latents[(item, *inner)])
        raise UnprocessableContent(
            f"{where}: expected a finite number between {-MAX_LATENT:.0f} and {MAX_LATENT:.0f}, got {value}"
        )
    return np.ascontiguousarray(latents, np.float32)


def _is_table(header: Header, shape: Sequence[int]) -> bool:
    """Whether it is an answer of /encode, [2 + L, N, *latent]: means, logvars and draws."""
    return len(header.shape) == len(shape) + 2 and header.shape[0] > 0
