"""Decoding of the images of a source: what the service does with the images of a request, by the same codecs."""

import hashlib
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from app.codecs.images import MAX_PIXELS, Fit, decode_images, fit_array, open_image, probe_images, upright_size
from app.datasets.entries import ArrayRow, Entry, Place, reason_of
from app.errors import ServiceError
from app.inference.image_sizes import Size, resampling_of, size_of_request
from model.data.arrays import DataError
from model.errors import UserError
from model.interface import FixedSize, ModelSpec, MultipleOfFactor

PREFIX = "images[0]: "
"""The index that the codecs write in front of the error of an image."""


class Sizes:
    """The size to which each image is fitted: that of the model, the nearest of some buckets, or that of the image.

    The nearest bucket has the most similar ratio of height to width, then the most similar area. Raises `UserError` for
    a bucket that the model does not take.
    """

    def __init__(self, rule: FixedSize | MultipleOfFactor, buckets: Sequence[Size] = ()) -> None:
        self._rule = rule
        self.buckets = tuple(buckets) or ((rule.image_size,) if isinstance(rule, FixedSize) else ())
        for bucket in self.buckets:
            try:
                size_of_request(rule, bucket, bucket, MAX_PIXELS)
            except ServiceError as error:
                raise UserError(f"bucket {bucket[1]}x{bucket[0]}: {error.detail}") from None

    @property
    def largest(self) -> Size:
        """The size of the largest images that are certain; of images of any size the default of the model."""
        return max(self.buckets, key=lambda size: size[0] * size[1], default=self._rule.default_size)

    def of(self, own: Size) -> Size:
        """Return the size to which an image of its `own` size is fitted."""
        if len(self.buckets) == 1:
            return self.buckets[0]
        if self.buckets:
            return min(self.buckets, key=lambda size: _distance(size, own))
        return size_of_request(self._rule, (None, None), own, MAX_PIXELS)


def _distance(size: Size, own: Size) -> tuple[float, float]:
    ratio, area = (size[0] * own[1]) / (size[1] * own[0]), (size[0] * size[1]) / (own[0] * own[1])
    return max(ratio, 1 / ratio), max(area, 1 / area)


class ImageRecord(NamedTuple):
    """What is known of an image: its entry, the digest of its content, its own and its fitted size, or an error."""

    entry: Entry
    digest: str = ""
    own: Size | None = None
    size: Size | None = None
    error: str = ""


class DecodedImages(NamedTuple):
    """Images of a source in order; `pixels` are those that could be read, uint8 [n, C, H, W], by their size (H, W)."""

    records: Sequence[ImageRecord]
    pixels: dict[Size, np.ndarray]


class ImageDecoder:
    """Reads images of a source and fits them to a model. May be used by several threads."""

    def __init__(self, spec: ModelSpec, sizes: Sizes, fit: Fit) -> None:
        self._channels, self._sizes, self._fit = spec.channels, sizes, fit
        self._resampling = resampling_of(spec.sizes)

    def decode(self, entries: Sequence[Entry]) -> DecodedImages:
        """Read images; one that cannot be read has an error in its record."""
        records: list[ImageRecord] = []
        found: dict[Size, list[np.ndarray]] = {}
        for _, group in groupby(entries, _array_of):
            together = list(group)
            decode = self._decode_rows if isinstance(together[0].place, ArrayRow) else self._decode_files
            for record, pixels in decode(together):
                records += record
                if pixels is not None and record[0].size:
                    found.setdefault(record[0].size, []).append(pixels)
        joined = {size: parts[0] if len(parts) == 1 else np.concatenate(parts) for size, parts in found.items()}
        return DecodedImages(records, joined)

    def _decode_files(self, entries: Sequence[Entry]) -> list[tuple[list[ImageRecord], np.ndarray | None]]:
        return [self._decode_file(entry) for entry in entries]

    def _decode_file(self, entry: Entry) -> tuple[list[ImageRecord], np.ndarray | None]:
        record = ImageRecord(entry)
        try:
            content = _content(entry.place)  # type: ignore[arg-type]  # the rows of arrays are read together
            record = record._replace(digest=sha256(content))
            opened = open_image(content, 0, MAX_PIXELS)
            own = upright_size(opened)
            record = record._replace(own=own)
            height, width = self._sizes.of(own)
            shape = (self._channels, height, width)
            (image,) = probe_images([content], shape, MAX_PIXELS)
            pixels = decode_images([image], shape, self._fit, resampling=self._resampling)
            return [record._replace(size=(height, width))], pixels
        except ServiceError as error:
            return [record._replace(error=error.detail.removeprefix(PREFIX))], None
        except (OSError, ValueError, UserError) as error:
            return [record._replace(error=reason_of(error))], None

    def _decode_rows(self, entries: Sequence[Entry]) -> list[tuple[list[ImageRecord], np.ndarray | None]]:
        """Fit rows of one array together, or one by one if there is an error in one of them."""
        array, rows = entries[0].place.array, [entry.place.row for entry in entries]  # type: ignore[union-attr]
        consecutive = rows == list(range(rows[0], rows[0] + len(rows)))
        images = np.ascontiguousarray(array[rows[0] : rows[0] + len(rows)] if consecutive else array[rows])
        own = images.shape[1:3]
        try:
            size = self._sizes.of(own)
            pixels = fit_array(images, (self._channels, *size), self._fit, resampling=self._resampling)
        except ServiceError as error:
            if len(entries) > 1:
                return [each for entry in entries for each in self._decode_rows([entry])]
            reason = error.detail.removeprefix(PREFIX)
            return [([ImageRecord(entries[0], sha256(images[0]), own, error=reason)], None)]
        digests = map(sha256, images)
        records = [ImageRecord(entry, digest, own, size) for entry, digest in zip(entries, digests, strict=True)]
        return [(records, pixels)]


def content_digest(entry: Entry) -> str:
    """Return the SHA-256 of the content of an image in hexadecimal; "" if it cannot be read."""
    try:
        place = entry.place
        return sha256(np.ascontiguousarray(place.array[place.row]) if isinstance(place, ArrayRow) else _content(place))
    except UserError:
        return ""


def _content(place: Place) -> bytes:
    """Return the bytes of an image file. Raises `DataError` for any exception of the archive or store that it is in."""
    try:
        return place.read()
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  # decompressors and clients of stores raise many types of exceptions
        raise DataError(reason_of(error)) from None


def sha256(content: bytes | np.ndarray) -> str:
    """Return the SHA-256 of bytes, or of the numbers of a contiguous array, in hexadecimal."""
    return hashlib.sha256(content.data if isinstance(content, np.ndarray) else content).hexdigest()


def _array_of(entry: Entry) -> int:
    """Return what the rows of one array have in common; 0 for all files."""
    return id(entry.place.array) if isinstance(entry.place, ArrayRow) else 0
