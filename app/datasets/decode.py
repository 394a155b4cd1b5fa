"""Images of a whole data set: decoding of latents on disk, and reconstruction of images."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from app.batching.executor import OutOfMemory
from app.codecs.images import configure_pillow_limits
from app.context import Operation
from app.datasets.computation import BatchComputation
from app.datasets.decoding import ImageDecoder, Sizes
from app.datasets.entries import Source
from app.datasets.image_folder import ImageFolder, NameTooLong
from app.datasets.latent_encoder import seed_of
from app.datasets.options import MAX_SEED, EncodeOptions, Hardware, ImageOptions, ProgressCallback
from app.datasets.output import locked_folder, require_outside
from app.datasets.pipeline import ImageBatch, ImagePipeline, chunks, in_order
from app.datasets.sources import open_source, require_images
from app.datasets.tally import Tally
from app.inference.image_sizes import Size
from app.inference.noise import Noise
from model.data.arrays import DataError
from model.data.latents import DRAWS, MEAN, Latents, check_shards
from model.errors import OptionsError
from model.formats import load
from model.interface import ImageModel, ModelSpec
from model.validation import require

SPAN = 4096
"""Images of a source after which batches that are not full are computed."""


@dataclass(frozen=True, slots=True)
class ImagesSummary:
    """What a run has done: images that were written or could not be computed, and those that the folder had before.

    `errors` are the first of the images that could not be read, with the reason. `waited` is the share of the time in
    which the device computed nothing.
    """

    written: int
    unreadable: int
    unchanged: int
    errors: Sequence[str]
    seconds: float
    waited: float


class Images(NamedTuple):
    """Images of one batch, uint8 [n, C, H, W], by their ids, or the error of all of them.

    `read` counts the images of the source since the batch before, `errors` are those that could not be read.
    """

    ids: Sequence[str]
    pixels: np.ndarray | None
    error: str = ""
    read: int = 0
    errors: Sequence[tuple[str, str]] = ()


def decode_dataset(
    latents: str | Path,
    model: str | Path | ImageModel,
    out: str | Path,
    options: ImageOptions = ImageOptions(),  # noqa: B008  # a frozen record
    hardware: Hardware = Hardware(),  # noqa: B008
    progress: ProgressCallback | None = None,
    *,
    draw: int | None = None,
) -> ImagesSummary:
    """Decode the latents in a folder at their means, or at the draw of this number, and write an image for each.

    Images that exist are kept. Raises `DataError` for a folder without latents, or with those of another model.
    """
    configure_pillow_limits()
    device = hardware.only_device
    data = Latents(latents)
    require_outside(Path(out), [latents])
    loaded = load(model) if isinstance(model, str | Path) else model
    spec = loaded.spec
    if spec.digest != data.recipe["digest"]:
        raise DataError(f"{latents}: expected latents of {spec.identity}, got those of {data.recipe['model']}")
    check_shards(data.folder, data.index, data.recipe, spec.sizes.latents_of)
    if draw is not None:
        _require_draw(data, draw)
    recipe = {"model": spec.identity, "digest": spec.digest, "draw": draw}
    with locked_folder(Path(out)):
        folder = ImageFolder(Path(out), recipe, options.image_format, options.quality, overwrite=options.overwrite)
        ids = data.ids
        folder.require_own_paths(ids)
        rows = [row for row, name in enumerate(ids) if not folder.has(name)]
        computation = BatchComputation(loaded, hardware, device)
        try:
            reader = LatentReader(data, spec, computation, draw)
            return _write(
                reader.images(rows),
                folder,
                Tally(len(rows), lambda: computation.waited, progress),
                computation,
                len(ids),
            )
        finally:
            computation.close()


def reconstruct_dataset(
    source: str | Path | Sequence[str | Path],
    model: str | Path | ImageModel,
    out: str | Path,
    encoding: EncodeOptions = EncodeOptions(),  # noqa: B008  # a frozen record
    options: ImageOptions = ImageOptions(),  # noqa: B008
    hardware: Hardware = Hardware(),  # noqa: B008
    progress: ProgressCallback | None = None,
    *,
    seed: int | None = None,
) -> ImagesSummary:
    """Encode and decode the images of a source, and write an image for each: at the mean, or with `seed` at a draw.

    Of `encoding` the fit, buckets and `strict` count. Images that exist are kept. Raises errors as `encode_dataset`.
    """
    configure_pillow_limits()
    device = hardware.only_device
    locations = [source] if isinstance(source, str | Path) else [*source]
    opened = open_source(*locations)
    require_images(opened, locations)
    require_outside(Path(out), locations)
    loaded = load(model) if isinstance(model, str | Path) else model
    spec = loaded.spec
    if seed is not None:
        require(OptionsError, "seed", 0 <= seed <= MAX_SEED, f"0 to {MAX_SEED}", seed)
    if seed is not None and not spec.has_variance:
        raise OptionsError(f"seed: {spec.identity} has a deterministic encoder, there is nothing to draw from")
    buckets = [list(size) for size in encoding.buckets]
    recipe = {
        "model": spec.identity,
        "digest": spec.digest,
        "fit": encoding.fit,
        "sizes": buckets,
        "seed": seed,
    }
    with locked_folder(Path(out)):
        folder = ImageFolder(Path(out), recipe, options.image_format, options.quality, overwrite=options.overwrite)
        folder.require_own_paths(entry.id for entry in opened.entries())
        computation = BatchComputation(loaded, hardware, device, row_by_row=seed is not None)
        try:
            total = sum(1 for _ in opened.entries())
            missing = sum(1 for entry in opened.entries() if not folder.has(entry.id))
            reconstructor = Reconstructor(spec, encoding, computation, seed)
            tally = Tally(missing, lambda: computation.waited, progress)
            return _write(
                reconstructor.images(opened, folder), folder, tally, computation, total, strict=encoding.strict
            )
        finally:
            computation.close()


def _require_draw(data: Latents, draw: int) -> None:
    """Raise `OptionsError` for a draw that a folder does not have."""
    count = data.recipe["samples"]
    if not count:
        raise OptionsError(f"draw: expected latents with draws, encoded with --samples, got {draw} for {data.folder}")
    require(OptionsError, "draw", 0 <= draw < count, f"0 to {count - 1}, the draws in {data.folder}", draw)


class LatentReader:
    """Reads latents from a folder, and decodes them in batches of one size."""

    def __init__(self, data: Latents, spec: ModelSpec, computation: BatchComputation, draw: int | None) -> None:
        self._data, self._spec, self._computation, self._draw = data, spec, computation, draw
        self._sizes = data.sizes

    def images(self, rows: Sequence[int]) -> Iterator[Images]:
        """Yield the images of rows of the index, in order."""
        computation = self._computation
        batches = in_order(computation.threads, self._read, self._batches(rows), 2 * computation.ahead)
        return in_order(computation.device_threads, self._decode, batches, computation.slots)

    def _batches(self, rows: Sequence[int]) -> Iterator[tuple[Size, Sequence[int]]]:
        for size, group in groupby(sorted(rows, key=self._sizes.__getitem__), self._sizes.__getitem__):
            yield from ((size, batch) for batch in chunks(group, self._computation.batch_size(size)))

    def _read(self, batch: tuple[Size, Sequence[int]]) -> tuple[Size, Sequence[str], np.ndarray]:
        size, rows = batch
        items = [self._data[row] for row in rows]
        found = [item[MEAN] if self._draw is None else item[DRAWS][self._draw] for item in items]
        stacked = torch.stack(found).float().numpy()
        latents = self._spec.scaling.unscaled(stacked) if self._data.recipe["scaled"] else stacked
        return size, [item["id"] for item in items], np.ascontiguousarray(latents, np.float32)

    def _decode(self, batch: tuple[Size, Sequence[str], np.ndarray]) -> Images:
        size, ids, latents = batch
        try:
            (pixels,) = self._computation.run(Operation.DECODE, latents, size=size)
        except OutOfMemory:
            return Images(ids, None, _no_memory(size), read=len(ids))
        return Images(ids, pixels, read=len(ids))


class Reconstructor:
    """Reads images of a source, and reconstructs them in batches of one size."""

    def __init__(
        self, spec: ModelSpec, options: EncodeOptions, computation: BatchComputation, seed: int | None
    ) -> None:
        self._spec, self._computation, self._seed = spec, computation, seed
        sizes = Sizes(spec.sizes, options.buckets)
        self._pipeline = ImagePipeline(
            ImageDecoder(spec, sizes, options.fit),
            computation.batch_size,
            computation.threads,
            ahead=2 * computation.ahead,
            usual=(spec.channels, *sizes.largest),
        )

    def images(self, source: Source, folder: ImageFolder) -> Iterator[Images]:
        """Yield the reconstructions of the images that a folder lacks."""
        missing = (entry for entry in source.entries() if not folder.has(entry.id))
        batches = self._pipeline.batches(chunks(missing, SPAN))
        return in_order(self._computation.device_threads, self._reconstruct, batches, self._computation.slots)

    def _reconstruct(self, batch: ImageBatch) -> Images:
        errors = [(record.entry.id, record.error) for record in batch.read if record.error]
        ids = [record.entry.id for record in batch.members]
        found = Images(ids, None, read=len(batch.read), errors=errors)
        if batch.pixels is None:
            return found
        try:
            (pixels,) = self._computation.run(Operation.RECONSTRUCT, batch.pixels, self._noise(batch), size=batch.size)
        except OutOfMemory:
            return found._replace(error=_no_memory(batch.size))
        return found._replace(pixels=pixels)

    def _noise(self, batch: ImageBatch) -> np.ndarray:
        shape = self._spec.sizes.latents_of(*batch.size)
        if self._seed is None:
            return np.zeros((len(batch.members), *shape), np.float32)
        seeds = (seed_of(self._seed, record.entry.id) for record in batch.members)
        return np.concatenate([Noise(seed).normal(1, *shape).numpy() for seed in seeds])


def _write(
    images: Iterable[Images],
    folder: ImageFolder,
    tally: Tally,
    computation: BatchComputation,
    total: int,
    *,
    strict: bool = False,
) -> ImagesSummary:
    """Write images in threads, and count them; `total` images are in the source."""
    unreadable: list[tuple[str, str]] = []

    def write(batch: Images) -> Images:
        refused: list[tuple[str, str]] = []
        for name, pixels in zip(
            batch.ids, () if batch.pixels is None else batch.pixels, strict=batch.pixels is not None
        ):
            try:
                folder.write(name, pixels)
            except NameTooLong as error:
                refused.append((name, str(error)))
        return batch._replace(pixels=None, errors=[*batch.errors, *refused])

    for batch in in_order(computation.threads, write, images, computation.slots):
        errors = [*batch.errors, *((name, batch.error) for name in batch.ids if batch.error)]
        tally.add(batch.read, errors)
        unreadable += errors
        if strict and errors:
            raise DataError(f"{': '.join(errors[0])}; with strict this stops the run")
    folder.write_unreadable(unreadable)
    written = tally.done - tally.unreadable
    return ImagesSummary(written, tally.unreadable, total - tally.done, tally.errors, tally.seconds, computation.waited)


def _no_memory(size: Size) -> str:
    return f"the device has not enough memory for an image of {size[1]} x {size[0]}"
