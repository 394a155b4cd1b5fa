"""Encoding of a whole data set: `encode_dataset`, for `vae encode` and for programs."""

import hashlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from app.batching.executor import OutOfMemory
from app.codecs.images import configure_pillow_limits
from app.context import Operation
from app.datasets.computation import BatchComputation
from app.datasets.decoding import ImageDecoder, ImageRecord, Sizes
from app.datasets.options import EncodeOptions, Hardware, ProgressCallback
from app.datasets.pipeline import ImageBatch, ImagePipeline, chunks, in_order
from app.datasets.sources import Entry, Source, open_source, require_images
from app.datasets.store import Contents, IndexRow, LatentStore
from app.datasets.tally import Tally
from app.inference.image_sizes import Size
from app.inference.noise import Noise
from model.data.arrays import DataError
from model.data.latents import DRAWS, LOGVAR, MEAN, tensor_name
from model.formats import load
from model.gaussian import DiagonalGaussian
from model.interface import ImageModel, ModelSpec

MAX_SHARD_BYTES = 2**27
"""Bytes of the latents of a shard, unless its number of images is given: two shards are in memory at once."""

MAX_SHARD_IMAGES = 4096

SEED_BITS = 53
"""Bits of the seed of an image: as many as a number in JSON has."""

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class EncodeSummary:
    """What a run has done: images that were encoded or could not be read, and those that the folder had before.

    `errors` are the first of the images that could not be read, with the reason. `contents` is what the folder holds
    now. `seconds` are those of the encoding, `waited` is the share of it in which the device computed nothing.
    """

    encoded: int
    unreadable: int
    unchanged: int
    errors: Sequence[str]
    contents: Contents
    seconds: float
    waited: float


def encode_dataset(
    source: str | Path | Sequence[str | Path],
    model: str | Path | ImageModel,
    out: str | Path,
    options: EncodeOptions = EncodeOptions(),  # noqa: B008  # a frozen record
    hardware: Hardware = Hardware(),  # noqa: B008
    progress: ProgressCallback | None = None,
) -> EncodeSummary:
    """Encode the images of a source, and write their latents to a folder in shards with an index.

    `source` is one or several locations as `open_source` takes, `model` a model or its folder. A folder that has
    latents already gets those of new and changed images. The result does not depend on interruptions. `progress` is
    called after each batch. Raises `UserError` for options that do not fit the model, `DataError` for a source without
    images, for a folder with latents of another recipe, and for a file that cannot be read if the options are strict.
    """
    configure_pillow_limits()
    job = EncodeJob([source] if isinstance(source, str | Path) else [*source], model, Path(out), options, hardware)
    require_images(job.source(), job.locations)
    if len(hardware.devices) > 1:
        from app.datasets.processes import encode_in_processes  # noqa: PLC0415  # it imports this module

        return encode_in_processes(job, progress)
    return _encode_here(job, progress)


def seed_of(seed: int, name: str) -> int:
    """Return the seed of the draws of an image: by the seed of the run and its id."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS)


class Span(NamedTuple):
    """The images of one shard, and its number."""

    number: int
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class EncodeJob:
    """What is encoded, by which model, and where to; processes that share the work get it."""

    locations: Sequence[str | Path]
    model: str | Path | ImageModel
    out: Path
    options: EncodeOptions
    hardware: Hardware

    def source(self) -> Source:
        """Open the source."""
        return open_source(*self.locations)

    def load(self) -> ImageModel:
        """Load the model."""
        return load(self.model) if isinstance(self.model, str | Path) else self.model

    def store(self, spec: ModelSpec, parts: Sequence[int] | None = None) -> LatentStore:
        """Open the folder of the latents as `LatentStore` does."""
        precision = self.hardware.settings(self.hardware.devices[0]).precision
        return LatentStore(self.out, self.options.recipe(spec, precision), parts)

    def count(self, store: LatentStore) -> tuple[int, int]:
        """Return the number of images that the folder lacks, and of those that it has."""
        found = Counter(self._has(store, entry) for entry in self.source().entries())
        return found[False], found[True]

    def missing(self, store: LatentStore) -> Iterator[Entry]:
        """List the images that the folder lacks."""
        return (entry for entry in self.source().entries() if not self._has(store, entry))

    def _has(self, store: LatentStore, entry: Entry) -> bool:
        return store.has(entry, verify=self.options.verify, retry=self.options.retry)

    def spans(self, spec: ModelSpec, store: LatentStore) -> Iterator[Span]:
        """Divide the images that the folder lacks into spans, each with the number of its shard."""
        return map(Span, store.numbers(), chunks(self.missing(store), self.shard_size(spec)))

    def shard_size(self, spec: ModelSpec) -> int:
        """Return the number of images in a shard, also of those that cannot be read."""
        if self.options.shard_size:
            return self.options.shard_size
        latents = (2 if spec.has_variance else 1) + self.options.samples
        values = latents * prod(spec.sizes.latents_of(*Sizes(spec.sizes, self.options.buckets).largest))
        return max(1, min(MAX_SHARD_IMAGES, MAX_SHARD_BYTES // (values * _DTYPES[self.options.dtype].itemsize)))


def _encode_here(job: EncodeJob, progress: ProgressCallback | None) -> EncodeSummary:
    """Encode a data set in this process."""
    model = job.load()
    with (
        LatentEncoder(model, job.options, job.hardware, job.hardware.devices[0]) as encoder,
        closing(job.store(model.spec)) as store,
    ):
        missing, unchanged = job.count(store)
        tally = Tally(missing, lambda: encoder.waited, progress)
        encoder.write_shards(job.spans(model.spec, store), store, tally)
        return summary_of(store, tally, unchanged, encoder.waited)


def summary_of(store: LatentStore, tally: Tally, unchanged: int, waited: float) -> EncodeSummary:
    """Complete the folder, and return what was done."""
    contents, encoded = store.finish(), tally.done - tally.unreadable
    return EncodeSummary(encoded, tally.unreadable, unchanged, tally.errors, contents, tally.seconds, waited)


class EncodedBatch(NamedTuple):
    """A batch and its latents, by name, [n, ...]; `failed` are the rows without latents, with the reason."""

    batch: ImageBatch
    tensors: dict[str, Tensor]
    failed: dict[int, str]

    @property
    def errors(self) -> Sequence[tuple[str, str]]:
        """The images that have no latents, each by its id and the reason."""
        unread = [(record.entry.id, record.error) for record in self.batch.read if record.error]
        return unread + [(self.batch.members[row].entry.id, reason) for row, reason in self.failed.items()]


class Latents(NamedTuple):
    """Latents of a batch as the encoder returned them, before they are converted."""

    batch: ImageBatch
    columns: tuple[np.ndarray, ...]
    error: str = ""


@dataclass(slots=True)
class Shard:
    """A shard that grows: the records of its images, their rows, and the latents by the size of the images."""

    records: list[ImageRecord] = field(default_factory=list)
    rows: dict[str, tuple[int, str]] = field(default_factory=dict)
    latents: dict[Size, list[dict[str, Tensor]]] = field(default_factory=dict)
    counts: dict[Size, int] = field(default_factory=dict)

    def add(self, encoded: EncodedBatch) -> None:
        """Append a batch."""
        batch = encoded.batch
        self.records += batch.read
        first = self.counts.get(batch.size, 0)
        for row, record in enumerate(batch.members):
            self.rows[record.entry.id] = (first + row, encoded.failed.get(row, ""))
        if batch.members:
            self.counts[batch.size] = first + len(batch.members)
            self.latents.setdefault(batch.size, []).append(encoded.tensors)

    def tensors(self, *, several: bool) -> dict[str, Tensor]:
        """Return the tensors of the shard by name; `several` if it may have images of several sizes."""
        sizes = 2 if several else 1
        return {
            tensor_name(name, size, sizes): torch.cat([part[name] for part in parts])
            for size, parts in sorted(self.latents.items())
            for name in parts[0]
        }

    def index(self, number: int, options: EncodeOptions) -> list[IndexRow]:
        """Return the rows of the index."""
        return [self._index_row(record, number, options) for record in self.records]

    def _index_row(self, record: ImageRecord, number: int, options: EncodeOptions) -> IndexRow:
        entry = record.entry
        row, error = self.rows.get(entry.id, (None, record.error))
        height, width = record.size or (None, None)
        source_height, source_width = record.own or (None, None)
        return IndexRow(
            id=entry.id,
            shard=None if error else number,
            row=None if error else row,
            height=height,
            width=width,
            source_height=source_height,
            source_width=source_width,
            bytes=entry.size,
            modified=entry.modified,
            digest=record.digest or None,
            seed=seed_of(options.seed, entry.id) if options.samples and not error else None,
            error=error or None,
        )


class LatentEncoder:
    """Encodes spans of images on one device, and collects their latents in shards; closes its threads as a context."""

    def __init__(self, model: ImageModel, options: EncodeOptions, hardware: Hardware, device: str) -> None:
        self._spec, self._options = model.spec, options
        sizes = Sizes(model.spec.sizes, options.buckets)
        self._several = len(sizes.buckets) != 1
        self._computation = BatchComputation(model, hardware, device, row_by_row=options.samples > 0)
        self._pipeline = ImagePipeline(
            ImageDecoder(model.spec, sizes, options.fit),
            self._computation.batch_size,
            self._computation.threads,
            ahead=2 * self._computation.ahead,
            usual=(model.spec.channels, *sizes.largest),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._computation.close()

    @property
    def waited(self) -> float:
        """The share of the time in which the device computed nothing."""
        return self._computation.waited

    def write_shards(self, spans: Iterable[Span], store: LatentStore, tally: Tally) -> None:
        """Encode spans, and write the shard of each, one behind the computation."""
        numbers: deque[int] = deque()

        def entries() -> Iterator[Sequence[Entry]]:
            for number, span in spans:
                numbers.append(number)
                yield span

        writing: Future[None] | None = None
        with ThreadPoolExecutor(1, "writer") as writer:
            for encoded, shard in self._shards(self._pipeline.batches(entries())):
                tally.add(len(encoded.batch.read), encoded.errors)
                if self._options.strict and tally.errors:
                    raise DataError(f"{tally.errors[0]}; with strict this stops the run")
                if shard is not None:
                    if writing:
                        writing.result()
                    writing = writer.submit(self._write, shard, store, numbers.popleft())
            if writing:
                writing.result()

    def _shards(self, batches: Iterable[ImageBatch]) -> Iterator[tuple[EncodedBatch, Shard | None]]:
        """Yield each encoded batch, with the shard that it completes."""
        computation = self._computation
        latents = in_order(computation.device_threads, self._encode, batches, computation.slots)
        shard = Shard()
        for encoded in in_order(computation.threads, self._convert, latents, computation.slots):
            shard.add(encoded)
            if encoded.batch.last:
                yield encoded, shard
                shard = Shard()
            else:
                yield encoded, None

    def _write(self, shard: Shard, store: LatentStore, number: int) -> None:
        """Write a shard that is complete."""
        store.write(number, shard.tensors(several=self._several), shard.index(number, self._options))

    def _encode(self, batch: ImageBatch) -> Latents:
        if batch.pixels is None:
            return Latents(batch, ())
        try:
            return Latents(batch, self._computation.run(Operation.ENCODE, batch.pixels, size=batch.size))
        except OutOfMemory:
            shape = self._spec.sizes.latents_of(*batch.size)
            rows = np.zeros((len(batch.members), *shape), np.float32)
            error = f"the device has not enough memory for an image of {batch.size[1]} x {batch.size[0]}"
            return Latents(batch, (rows,) * (2 if self._spec.has_variance else 1), error)

    def _convert(self, latents: Latents) -> EncodedBatch:
        """Add draws, and convert latents to the units and the type of the options."""
        batch = latents.batch.without_pixels()
        if not latents.columns:
            return EncodedBatch(batch, {}, {})
        mean, *logvar = latents.columns
        found = {MEAN: mean, **({LOGVAR: logvar[0]} if logvar else {})}
        if self._options.samples:
            found[DRAWS] = self._draws(batch, mean, logvar[0])
        if self._options.scaled:
            scaling = self._spec.scaling
            found = {
                name: scaling.scaled_logvar(values) if name == LOGVAR else scaling.scaled(values)
                for name, values in found.items()
            }
        dtype = _DTYPES[self._options.dtype]
        tensors = {name: torch.from_numpy(np.ascontiguousarray(values)).to(dtype) for name, values in found.items()}
        failed = dict.fromkeys(range(len(mean)), latents.error) if latents.error else _failed(tensors, dtype)
        return EncodedBatch(batch, tensors, failed)

    def _draws(self, batch: ImageBatch, mean: np.ndarray, logvar: np.ndarray) -> np.ndarray:
        """Return draws from the posterior, [n, L, *latent], each image's by its own seed as the service draws them."""
        seeds = (seed_of(self._options.seed, record.entry.id) for record in batch.members)
        noise = torch.cat([Noise(seed).normal(1, self._options.samples, *mean.shape[1:]) for seed in seeds])
        posterior = DiagonalGaussian(torch.from_numpy(mean), torch.from_numpy(logvar))
        return posterior.reparameterize(noise.transpose(0, 1)).transpose(0, 1).numpy()


def _failed(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[int, str]:
    """Return the rows with latents that are not finite, and set them to zero."""
    finite = torch.stack([torch.isfinite(values.flatten(1)).all(1) for values in tensors.values()]).all(0)
    if finite.all():
        return {}
    for values in tensors.values():
        values[~finite] = 0
    name = str(dtype).removeprefix("torch.")
    return {int(row): f"its latents are not finite in {name}" for row in torch.nonzero(~finite)}
