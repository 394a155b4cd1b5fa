"""A pipeline over the images of a source: decoded ahead of the device, in batches of one size, results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from itertools import islice
from math import prod
from typing import TypeVar

import numpy as np

from app.datasets.decoding import DecodedImages, ImageDecoder, ImageRecord
from app.datasets.entries import Entry
from app.inference.image_sizes import Size

CHUNK_VALUES = 2**20
"""Pixel values of the images that are decoded in one job."""

In = TypeVar("In")
Out = TypeVar("Out")
T = TypeVar("T")


def in_order(executor: Executor, function: Callable[[In], Out], items: Iterable[In], ahead: int) -> Iterator[Out]:
    """Yield the results of a function in the order of the items; at most `ahead` of them are computed in advance."""
    pending: deque[Future[Out]] = deque()
    try:
        for item in items:
            pending.append(executor.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Divide items into lists of `size`, in order."""
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Images of one size, uint8 [n, C, H, W], and the records of all images that were read since the batch before.

    `members` are the records of the images in the batch. A batch that is the `last` of its span may be empty.
    """

    size: Size
    pixels: np.ndarray | None
    members: Sequence[ImageRecord]
    read: Sequence[ImageRecord] = ()
    last: bool = False

    def without_pixels(self) -> "ImageBatch":
        """Return the batch without its images, so that their memory is free."""
        return replace(self, pixels=None)


@dataclass(slots=True)
class _Group:
    """Images of one size that wait for a full batch."""

    pixels: list[np.ndarray] = field(default_factory=list)
    members: list[ImageRecord] = field(default_factory=list)

    def take(self, count: int) -> tuple[np.ndarray, list[ImageRecord]]:
        """Remove and return the first `count` images."""
        joined = self.pixels[0] if len(self.pixels) == 1 else np.concatenate(self.pixels)
        taken, self.members = self.members[:count], self.members[count:]
        self.pixels = [joined[count:]] if self.members else []
        return joined[:count], taken


class ImagePipeline:
    """Reads and decodes images in threads, and groups them into batches of one size.

    `batch_size` returns the number of images in a batch of a size. `ahead` jobs are read in advance.
    """

    def __init__(
        self,
        decoder: ImageDecoder,
        batch_size: Callable[[Size], int],
        executor: Executor,
        *,
        ahead: int,
        usual: tuple[int, int, int],
    ) -> None:
        self._decoder, self._batch_size, self._executor, self._ahead = decoder, batch_size, executor, ahead
        self._chunk = max(1, min(batch_size(usual[1:]), CHUNK_VALUES // prod(usual)))

    def batches(self, spans: Iterable[Sequence[Entry]]) -> Iterator[ImageBatch]:
        """Yield the batches of spans of images, in order; no batch has images of two spans."""
        jobs = ((chunk, number == last) for chunk, number, last in self._jobs(spans))
        decoded = in_order(self._executor, lambda job: (self._decoder.decode(job[0]), job[1]), jobs, self._ahead)
        groups: dict[Size, _Group] = {}
        for images, last in decoded:
            full = list(self._full(images, groups))
            rest = list(self._rest(groups)) if last else []
            found = [*full, *rest] or [ImageBatch((0, 0), None, ())]
            for number, batch in enumerate(found):
                yield ImageBatch(
                    batch.size,
                    batch.pixels,
                    batch.members,
                    read=images.records if number == 0 else (),
                    last=last and number == len(found) - 1,
                )

    def _jobs(self, spans: Iterable[Sequence[Entry]]) -> Iterator[tuple[Sequence[Entry], int, int]]:
        for span in spans:
            parts = list(chunks(span, self._chunk))
            yield from ((part, number, len(parts) - 1) for number, part in enumerate(parts))

    def _full(self, images: DecodedImages, groups: dict[Size, _Group]) -> Iterator[ImageBatch]:
        """Add images to their groups, and yield the batches that are full."""
        for size, pixels in images.pixels.items():
            group = groups.setdefault(size, _Group())
            group.pixels.append(pixels)
            group.members += [record for record in images.records if record.size == size]
            while len(group.members) >= (most := self._batch_size(size)):
                yield ImageBatch(size, *group.take(most))

    def _rest(self, groups: dict[Size, _Group]) -> Iterator[ImageBatch]:
        """Yield the batches that are not full at the end of a span."""
        for size, group in groups.items():
            if group.members:
                yield ImageBatch(size, *group.take(len(group.members)))
        groups.clear()
