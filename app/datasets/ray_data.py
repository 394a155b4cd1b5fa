"""Encoding on a cluster by Ray Data: actors take shards, and write them into a folder that all machines share.

Ray schedules the actors, adds and removes them with the machines of the cluster, and repeats what a lost one had begun.
A shard is complete or not there, so a repetition does no harm. Needs the extra `ray`.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import ray
import ray.data

from app.codecs.images import configure_pillow_limits
from app.datasets.encode import EncodeJob, EncodeSummary, summary_of
from app.datasets.latent_encoder import LatentEncoder, Span
from app.datasets.options import EncodeOptions, Hardware, ProgressCallback
from app.datasets.output import require_outside
from app.datasets.sources import require_images
from app.datasets.tally import Tally
from model.errors import UserError

DEFAULT_CORES = 2
"""CPU cores of an actor on a cluster without GPUs, unless the options name threads."""


def encode_on_ray(
    source: str | Path | Sequence[str | Path],
    model: str | Path,
    out: str | Path,
    options: EncodeOptions = EncodeOptions(),  # noqa: B008  # a frozen record
    hardware: Hardware = Hardware(),  # noqa: B008
    progress: ProgressCallback | None = None,
    *,
    address: str = "auto",
) -> EncodeSummary:
    """Encode a data set as `encode_dataset` does, on the Ray cluster at an address, or the one of this machine (auto).

    Source, model and folder are paths that all machines have, or for the source a URL of an object store. Each actor
    has a GPU, or in a cluster without any so many cores as `hardware` has threads. Raises errors as `encode_dataset`,
    and `UserError` for a cluster that cannot be reached.
    """
    locations = [source] if isinstance(source, str | Path) else [*source]
    named = _absolute(model) if Path(model).exists() else str(model)  # a name on the hub, or of a shipped model
    job = EncodeJob([_absolute(each) for each in locations], named, Path(out).absolute(), options, hardware)
    require_images(job.source(), locations)
    require_outside(job.out, locations)
    spec = job.load().spec
    with closing(job.store(spec)) as store:
        counts = job.count(store)
        tally = Tally(counts.missing, progress=progress)
        if counts.missing:
            _connect(address)
            try:
                _run(job, store.parts, -(-counts.missing // store.shard_size), tally)
            finally:
                ray.shutdown()
        return summary_of(store, tally, counts, 0.0)


def _run(job: EncodeJob, parts: Sequence[int], shards: int, tally: Tally) -> None:
    ray.data.DataContext.get_current().enable_progress_bars = False
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    cores = job.hardware.threads or DEFAULT_CORES
    done = ray.data.range(shards, override_num_blocks=shards).map_batches(
        ShardActor,
        fn_constructor_args=(job, parts, cores, bool(gpus)),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=shards),
        num_cpus=None if gpus else cores,
        num_gpus=gpus or None,
    )
    for row in done.iter_rows():
        errors = [(name, reason) for name, reason in json.loads(row["errors"])]
        tally.add(int(row["images"]), errors)
        if job.options.strict and errors:
            raise UserError(f"{': '.join(errors[0])}; with strict this stops the run")


class ShardActor:
    """An actor that encodes shards by their position among those that the folder lacked at the start."""

    def __init__(self, job: EncodeJob, parts: Sequence[int], threads: int, gpu: bool) -> None:
        configure_pillow_limits()
        model = job.load()
        device, cores = ("cuda", 0) if gpu else ("cpu", threads)
        self._job = job
        self._store = job.store(model.spec, parts)
        self._encoder = LatentEncoder(model, job.options, Hardware(device, job.hardware.precision, cores), device)
        self._spans: Iterator[Span] = iter(())
        self._next = 0

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Encode the shards at these positions, and return what was done for each."""
        tallies = [self._encode(int(position)) for position in batch["id"]]
        errors = [json.dumps([error.split(": ", 1) for error in tally.errors]) for tally in tallies]
        return {"images": [tally.done for tally in tallies], "errors": errors}

    def _encode(self, position: int) -> Tally:
        tally = Tally(0, max_errors=sys.maxsize)
        self._encoder.write_shards([self._span(position)], self._store, tally)
        return tally

    def _span(self, position: int) -> Span:
        """Return the span at a position; the source is listed once, unless a position before the last one comes."""
        if position < self._next or not self._next:
            self._spans, self._next = self._job.spans(self._store), 0
        span = next(islice(self._spans, position - self._next, None))
        self._next = position + 1
        return span


def _connect(address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError) as error:
        raise UserError(f"ray: {address}: {str(error).splitlines()[0]}") from None


def _absolute(location: str | Path) -> str:
    """Return a path as all machines see it; a URL stays as it is."""
    text = str(location)
    return text if "://" in text else os.path.abspath(text)  # noqa: PTH100  # a pattern is no path
