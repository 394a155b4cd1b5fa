"""`vae encode`, `vae decode`, `vae reconstruct` and `vae score`: commands on whole data sets."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.commands.parameters import (
    BatchSize,
    Bucket,
    Device,
    Fit,
    ImageFormat,
    Model,
    Overwrite,
    Precision,
    Quality,
    Sources,
    Strict,
    Threads,
)
from app.cli.errors import report_user_errors
from app.cli.number_options import integer_option, real_option
from app.server.startup import without_collections


def encode(
    source: Sources,
    out: Annotated[Path, typer.Option(help="Folder of the latents; it is continued if it has some of them.")],
    model: Model = "",
    samples: Annotated[int, integer_option("Draws from the posterior of each image that are stored as well.")] = 0,
    seed: Annotated[int, integer_option("Seed of the draws; each image has its own by it and by its path.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16, of the stored latents.")] = "float32",
    scaled: Annotated[
        bool, typer.Option("--scaled", help="Store latents in the units of the diffusion model.")
    ] = False,
    fit: Fit = "resize",
    bucket: Bucket = "",
    shard_size: Annotated[int, integer_option("Images of one shard at most; 0: up to 4096 and 128 MiB.")] = 0,
    batch_size: BatchSize = 0,
    verify: Annotated[
        bool, typer.Option("--verify", help="Find changed images by content, not by size and time.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try again what could not be read before.")] = False,
    strict: Strict = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, or several: cuda:0,cuda:1.")] = "",
    precision: Precision = "",
    threads: Threads = 0,
    ray: Annotated[
        str,
        typer.Option(
            help="Encode on a Ray cluster: its address, auto for the one of this machine, or local to start one."
        ),
    ] = "",
) -> None:
    """Encode a data set: latents in shards with an index. A second run encodes what is new or changed.

    Exits with 3 if an image could not be read; the index has the reason.
    """
    with report_user_errors():
        with without_collections():
            from app.cli.datasets import parse_sizes, run_encode
            from app.datasets.options import EncodeOptions, Hardware

        options = EncodeOptions(
            fit=fit,  # type: ignore[arg-type]  # it checks the options
            buckets=parse_sizes(bucket),
            samples=samples,
            seed=seed,
            dtype=dtype,  # type: ignore[arg-type]
            scaled=scaled,
            shard_size=shard_size,
            verify=verify,
            retry=retry,
            strict=strict,
        )
        run_encode(source, model, out, options, Hardware(device, precision, threads, batch_size), ray)


def decode(
    latents: Annotated[Path, typer.Argument(metavar="LATENTS", help="A folder that encode has written.")],
    out: Annotated[Path, typer.Option(help="Folder of the images; those that are there already are kept.")],
    model: Annotated[str, typer.Option(help="The model that encoded them, as for serve.")] = "",
    draw: Annotated[int | None, integer_option("Decode the draw of this number, from 0, in place of the mean.")] = None,
    image_format: ImageFormat = "png",
    quality: Quality = 90,
    overwrite: Overwrite = False,
    batch_size: BatchSize = 0,
    device: Device = "",
    precision: Precision = "",
    threads: Threads = 0,
) -> None:
    """Decode latents that encode has written: an image for each, under its relative path."""
    with report_user_errors():
        with without_collections():
            from app.cli.datasets import run_decode
            from app.datasets.options import Hardware, ImageOptions

        options = ImageOptions(image_format, quality, overwrite)  # type: ignore[arg-type]  # it checks them
        run_decode(latents, model, out, options, Hardware(device, precision, threads, batch_size), draw)


def reconstruct(
    source: Sources,
    out: Annotated[Path, typer.Option(help="Folder of the images; those that are there already are kept.")],
    model: Model = "",
    seed: Annotated[int | None, integer_option("Decode a draw from each posterior, in place of its mean.")] = None,
    fit: Fit = "resize",
    bucket: Bucket = "",
    strict: Strict = False,
    image_format: ImageFormat = "png",
    quality: Quality = 90,
    overwrite: Overwrite = False,
    batch_size: BatchSize = 0,
    device: Device = "",
    precision: Precision = "",
    threads: Threads = 0,
) -> None:
    """Encode and decode a data set: an image for each, under its relative path.

    Exits with 3 if an image could not be read; unreadable.txt has the reason.
    """
    with report_user_errors():
        with without_collections():
            from app.cli.datasets import parse_sizes, run_reconstruct
            from app.datasets.options import EncodeOptions, Hardware, ImageOptions

        encoding = EncodeOptions(fit, parse_sizes(bucket), strict=strict)  # type: ignore[arg-type]  # it checks them
        options = ImageOptions(image_format, quality, overwrite)  # type: ignore[arg-type]
        run_reconstruct(source, model, out, encoding, options, Hardware(device, precision, threads, batch_size), seed)


def score(
    source: Sources,
    out: Annotated[Path, typer.Option(help="Table of the scores, .csv or .parquet; pictures are written beside it.")],
    model: Model = "",
    alpha: Annotated[float | None, real_option("Mark images with a typicality of at most alpha as anomalous.")] = None,
    fail_above: Annotated[
        float | None, real_option("Exit with 4 if a larger share of the images is anomalous; needs --alpha.")
    ] = None,
    samples: Annotated[int | None, integer_option("Draws for each image, as the parameter of /score.")] = None,
    seed: Annotated[int, integer_option("Seed of the draws, as the parameter of /score.")] = 0,
    fit: Fit = "resize",
    limit: Annotated[int, integer_option("Score only the first images; 0 for all.")] = 0,
    device: Device = "",
    precision: Precision = "",
) -> None:
    """Score the images of a data set as /score does: a table, the least and most typical images, a histogram.

    Exits with 4 if a larger share than --fail-above is anomalous, else with 3 if an image could not be read.
    """
    with report_user_errors():
        with without_collections():
            from app.cli.score import ScoreOptions, run_score
            from app.cli.serve import settings_with

        options = ScoreOptions(samples, seed, alpha, fail_above, fit, limit)  # type: ignore[arg-type]  # it checks them
        run_score(source, settings_with(model=model, device=device, precision=precision), out, options)
