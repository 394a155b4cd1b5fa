"""Images of a source in one size, chunk by chunk, for commands that compute no latents."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from app.codecs.images import Fit, configure_pillow_limits
from app.datasets.decoding import ImageDecoder, Sizes
from app.datasets.entries import Source
from app.datasets.sources import open_source, require_images
from app.inference.image_sizes import Size
from model.interface import ModelSpec

CHUNK = 64


class ImageChunk(NamedTuple):
    """The `ids` of images and their `pixels`, uint8 [n, C, H, W], and the ids of those without any, with the reason."""

    ids: Sequence[str]
    pixels: np.ndarray
    unreadable: Sequence[tuple[str, str]]


def read_chunks(
    locations: Sequence[str], spec: ModelSpec, size: Size, fit: Fit = "resize", limit: int = 0
) -> Iterator[ImageChunk]:
    """Read images as the service does, each fitted to `size` (H, W); at most the first `limit` unless it is 0.

    Raises `DataError` for a source that cannot be read or has no images.
    """
    configure_pillow_limits()
    source = open_source(*locations)
    require_images(source, locations)
    return _chunks(source, ImageDecoder(spec, Sizes(spec.sizes, [size]), fit), limit)


def _chunks(source: Source, decoder: ImageDecoder, limit: int) -> Iterator[ImageChunk]:
    entries = islice(source.entries(), limit or None)
    while chunk := [*islice(entries, CHUNK)]:
        found = decoder.decode(chunk)
        read = [record.entry.id for record in found.records if record.size]
        errors = [(record.entry.id, record.error) for record in found.records if not record.size]
        pixels = next(iter(found.pixels.values()), np.zeros((0, 1, 1, 1), np.uint8))
        yield ImageChunk(read, pixels, errors)
