"""Encoding of spans of images on one device, each to a shard with its rows of the index."""

import gc
import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from app.batching.executor import OutOfMemory
from app.context import Operation
from app.datasets.computation import BatchComputation
from app.datasets.decoding import ImageDecoder, ImageRecord, Sizes
from app.datasets.entries import Entry
from app.datasets.options import EncodeOptions, Hardware
from app.datasets.pipeline import ImageBatch, ImagePipeline, in_order
from app.datasets.store import LatentStore
from app.datasets.tally import Tally
from app.inference.image_sizes import Size
from app.inference.noise import Noise
from model.data.arrays import DataError
from model.data.latents import DRAWS, LOGVAR, MEAN, tensor_name
from model.gaussian import DiagonalGaussian
from model.interface import ImageModel

SEED_BITS = 53
"""Bits of the seed of an image: as many as a number in JSON has."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def seed_of(seed: int, name: str) -> int:
    """Return the seed of the draws of an image: by the seed of the run and its id."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS)


class Span(NamedTuple):
    """The images of one shard, and its number."""

    number: int
    entries: Sequence[Entry]


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

    def index(self, number: int, options: EncodeOptions) -> dict[str, list[Any]]:
        """Return the columns of the index, in the order of `model.data.latents.SCHEMA`."""
        entries = [record.entry for record in self.records]
        places = [self.rows.get(record.entry.id, (None, record.error)) for record in self.records]
        sizes = [record.size or (None, None) for record in self.records]
        own = [record.own or (None, None) for record in self.records]
        drawn = [not error and options.samples > 0 for _, error in places]
        return {
            "id": [entry.id for entry in entries],
            "shard": [None if error else number for _, error in places],
            "row": [None if error else row for row, error in places],
            "height": [height for height, _ in sizes],
            "width": [width for _, width in sizes],
            "source_height": [height for height, _ in own],
            "source_width": [width for _, width in own],
            "bytes": [entry.size for entry in entries],
            "modified": [entry.modified for entry in entries],
            "digest": [record.digest or None for record in self.records],
            "seed": [seed_of(options.seed, e.id) if draw else None for e, draw in zip(entries, drawn, strict=True)],
            "error": [error or None for _, error in places],
        }


@contextmanager
def existing_objects_frozen() -> Iterator[None]:
    """Keep the garbage collector from visiting the objects that exist already.

    Each image adds a few tuples, which starts collections; those would visit all objects of torch again and again.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


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
        with existing_objects_frozen(), ThreadPoolExecutor(1, "writer") as writer:
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
        if computation.shares_threads:  # each step of a batch in another job would wait for its turn
            found = in_order(computation.threads, self._encode_batch, batches, computation.ahead)
        else:
            latents = in_order(computation.device_threads, self._encode, batches, computation.slots)
            found = in_order(computation.threads, self._convert, latents, computation.slots)
        shard = Shard()
        for encoded in found:
            shard.add(encoded)
            if encoded.batch.last:
                yield encoded, shard
                shard = Shard()
            else:
                yield encoded, None

    def _write(self, shard: Shard, store: LatentStore, number: int) -> None:
        """Write a shard that is complete."""
        store.write(number, shard.tensors(several=self._several), shard.index(number, self._options))

    def _encode_batch(self, batch: ImageBatch) -> EncodedBatch:
        return self._convert(self._encode(batch))

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
        dtype = DTYPES[self._options.dtype]
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
    if all(bool(torch.isfinite(values).all()) for values in tensors.values()):
        return {}
    finite = torch.stack([torch.isfinite(values.flatten(1)).all(1) for values in tensors.values()]).all(0)
    for values in tensors.values():
        values[~finite] = 0
    name = str(dtype).removeprefix("torch.")
    return {int(row): f"its latents are not finite in {name}" for row in torch.nonzero(~finite)}
