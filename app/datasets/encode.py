"""Encoding of a whole data set: `encode_dataset`, for `vae encode` and for programs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

from app.codecs.images import configure_pillow_limits
from app.datasets.decoding import Sizes
from app.datasets.entries import Entry, Source
from app.datasets.latent_encoder import DTYPES, LatentEncoder, Span
from app.datasets.options import EncodeOptions, Hardware, ProgressCallback
from app.datasets.output import require_outside
from app.datasets.pipeline import chunks
from app.datasets.sources import open_source, require_images
from app.datasets.store import Contents, LatentStore
from app.datasets.tally import Tally
from model.formats import load
from model.interface import ImageModel, ModelSpec

MAX_SHARD_BYTES = 2**27
"""Bytes of the latents of a shard, unless its number of images is given: two shards are in memory at once."""

MAX_SHARD_IMAGES = 4096


@dataclass(frozen=True, slots=True)
class EncodeSummary:
    """What a run has done: images that were encoded or could not be read, and those that the folder had before.

    `unchanged` images had latents. `still_unreadable` ones could not be read by an earlier run, and were not tried
    again. `errors` are the first of the images that could not be read, with the reason. `contents` is what the folder
    holds now. `seconds` are those of the encoding, `waited` is the share of it in which the device computed nothing.
    """

    encoded: int
    unreadable: int
    unchanged: int
    still_unreadable: int
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
    require_outside(job.out, job.locations)
    if len(hardware.devices) > 1:
        from app.datasets.processes import encode_in_processes  # noqa: PLC0415  # it imports this module

        return encode_in_processes(job, progress)
    return _encode_here(job, progress)


class SourceCounts(NamedTuple):
    """Images of a source: those that a folder lacks, that have latents in it, and that it records as unreadable."""

    missing: int
    encoded: int
    unreadable: int


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
        recipe, given = self.options.recipe(spec, precision), self.options.shard_size
        usual = self._usual_shard_size(spec)
        return LatentStore(self.out, recipe, spec.sizes.latents_of, parts, shard_size=given, usual_shard_size=usual)

    def count(self, store: LatentStore) -> SourceCounts:
        """Count the images of the source by what the folder has of them."""
        found = Counter((self._has(store, entry), store.is_unreadable(entry.id)) for entry in self.source().entries())
        return SourceCounts(found[False, False] + found[False, True], found[True, False], found[True, True])

    def missing(self, store: LatentStore) -> Iterator[Entry]:
        """List the images that the folder lacks."""
        return (entry for entry in self.source().entries() if not self._has(store, entry))

    def _has(self, store: LatentStore, entry: Entry) -> bool:
        return store.has(entry, verify=self.options.verify, retry=self.options.retry)

    def spans(self, store: LatentStore) -> Iterator[Span]:
        """Divide the images that the folder lacks into spans, each with the number of its shard."""
        return map(Span, store.numbers(), chunks(self.missing(store), store.shard_size))

    def _usual_shard_size(self, spec: ModelSpec) -> int:
        """Return the number of images in a shard by the size of their latents."""
        latents = (2 if spec.has_variance else 1) + self.options.samples
        values = latents * prod(spec.sizes.latents_of(*Sizes(spec.sizes, self.options.buckets).largest))
        return max(1, min(MAX_SHARD_IMAGES, MAX_SHARD_BYTES // (values * DTYPES[self.options.dtype].itemsize)))


def _encode_here(job: EncodeJob, progress: ProgressCallback | None) -> EncodeSummary:
    """Encode a data set in this process."""
    model = job.load()
    with (
        LatentEncoder(model, job.options, job.hardware, job.hardware.devices[0]) as encoder,
        closing(job.store(model.spec)) as store,
    ):
        counts = job.count(store)
        tally = Tally(counts.missing, lambda: encoder.waited, progress)
        encoder.write_shards(job.spans(store), store, tally)
        return summary_of(store, tally, counts, encoder.waited)


def summary_of(store: LatentStore, tally: Tally, counts: SourceCounts, waited: float) -> EncodeSummary:
    """Complete the folder, and return what was done."""
    contents, encoded = store.finish(), tally.done - tally.unreadable
    return EncodeSummary(
        encoded,
        tally.unreadable,
        counts.encoded,
        counts.unreadable,
        tally.errors,
        contents,
        tally.seconds,
        waited,
    )
