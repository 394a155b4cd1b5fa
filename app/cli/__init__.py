"""The `vae` command. Errors that a user can correct are reported in one line, with exit code 2."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from app.cli.number_options import integer_option, real_option
from app.server.startup import prepare_command
from model.errors import UserError
from model.formats import check_model
from model.shipped import find_model
from model.training.options import TrainingOptions

DEFAULTS = TrainingOptions()
DISTRIBUTION = "vae-service"
CHOSEN = "chosen from the data"
EXTRAS = {"matplotlib": "train", "pyarrow": "datasets", "ray": "ray"}
"""The extra that installs each optional module."""

cli = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables cut the names of options off in a narrow terminal
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the `vae` command."""
    prepare_command(sys.argv[1:])
    cli()


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"{DISTRIBUTION} {version(DISTRIBUTION)}")
        raise typer.Exit


@cli.callback()
def about(
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Serve, train and evaluate Variational Autoencoders."""


class ServeCommand(TyperCommand):
    """A command with a parameter for each setting; the settings are imported when the parameters are needed."""

    def get_params(self, ctx: Any) -> list[Any]:
        from app.cli.serve import serve_parameters

        return [*serve_parameters(), *super().get_params(ctx)]

    def invoke(self, ctx: Any) -> None:
        """Call the function of the command, which finds the values in its context."""
        ctx.invoke(self.callback)


@cli.command(cls=ServeCommand)
def serve(context: typer.Context) -> None:
    """Serve a model over HTTP. An option overrides its variable, and a variable overrides the default."""
    with report_user_errors():
        from app.cli.serve import given_settings
        from app.observability.logs import configure_logging
        from app.settings import read_settings, short_keys, unknown_variables

        settings = read_settings(given_settings(context))
        check_model(settings.model)
        configure_logging(settings)
        for warning in (*unknown_variables(os.environ), *short_keys(settings)):
            logging.getLogger("app.settings").warning(warning)
        from app.server.supervisor import serve as run

        run(settings)


def _apply_recipe(context: typer.Context, name: str) -> str:
    """Make the options of the recipe the defaults of the command."""
    if name:
        with report_user_errors():
            from app.cli.recipes import read_recipe

            excluded = {"data", "out", "resume", "keep_state", "download", "recipe", "help"}
            flags = {str(option.name): getattr(option, "is_flag", False) for option in context.command.params}
            recipe = read_recipe(
                name, flags.keys() - excluded, {option for option, is_flag in flags.items() if is_flag}
            )
            typer.echo(f"recipe {name}: {recipe}", err=True)
            context.default_map = recipe.options
    return name


def _given_options(context: typer.Context) -> set[str]:
    """The options that the command line or the recipe gives."""
    sources = {option: context.get_parameter_source(option) for option in context.params}
    return {option for option, source in sources.items() if source and source.name != "DEFAULT"}


@cli.command()
def train(
    context: typer.Context,
    data: Annotated[Path, typer.Option(help="MNIST files, a folder of image files, or a .npy or .npz file.")],
    out: Annotated[Path, typer.Option(help="Folder of the model, written after every epoch.")],
    recipe: Annotated[  # its callback reads it
        str,
        typer.Option(
            is_eager=True,
            callback=_apply_recipe,
            help="Read options from a recipe: mnist-cpu (two cores, 55 minutes), mnist (one GPU), mnist-iwae (16 "
            "minutes, with --start mnist), emoji (12 minutes), photos (5 minutes) or a .toml file.",
        ),
    ] = "",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the training in --out with the options that it began with.")
    ] = False,
    keep_state: Annotated[
        bool, typer.Option("--keep-state", help="Keep the state of a complete training, so that it can be lengthened.")
    ] = False,
    start: Annotated[Path | None, typer.Option(help="Start from a trained model and its architecture.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Download MNIST into --data if it is missing.")] = False,
    image_shape: Annotated[
        str, typer.Option(help="C,H,W to which image files are resized; by default from their commonest size.")
    ] = "",
    latent: Annotated[str | None, typer.Option(help=f"Latent shape: D, or Cz,h,w; {CHOSEN}.")] = None,
    stride: Annotated[int | None, integer_option(f"Stride of the first convolution, 1 or 2; {CHOSEN}.")] = None,
    channels: Annotated[
        str | None, typer.Option(help=f'Feature maps at each resolution, "" for an MLP; {CHOSEN}.')
    ] = None,
    blocks: Annotated[str | None, typer.Option(help=f"Residual blocks at each resolution; {CHOSEN}.")] = None,
    hidden: Annotated[str | None, typer.Option(help=f"Widths of the fully connected layers; {CHOSEN}.")] = None,
    likelihood: Annotated[
        str | None, typer.Option(help=f"bernoulli, gaussian, gaussian-learned, logistic, logistic-shared; {CHOSEN}.")
    ] = None,
    scale: Annotated[float, real_option("Standard deviation of the gaussian likelihood, pixels in [0, 1].")] = 0.1,
    objective: Annotated[str, typer.Option(help="elbo, or the importance-weighted iwae or dreg.")] = DEFAULTS.objective,
    epochs: Annotated[int | None, integer_option(f"Passes over the training images; {CHOSEN}.")] = None,
    minutes: Annotated[float | None, real_option("Time of the training, in place of --epochs.")] = None,
    batch_size: Annotated[int | None, integer_option(f"Images for each step; {CHOSEN}.")] = None,
    learning_rate: Annotated[float, real_option("Highest learning rate of Adam.")] = DEFAULTS.learning_rate,
    warmup: Annotated[
        int | None, integer_option("Steps until the highest learning rate; by default at most a twentieth of all.")
    ] = None,
    schedule: Annotated[str, typer.Option(help="cosine (to zero) or constant.")] = DEFAULTS.schedule,
    kl_warmup: Annotated[
        float | None, real_option("Epochs until the KL has its weight; by default at most a tenth, 0 with --start.")
    ] = None,
    beta: Annotated[float, real_option("Weight of the KL after its warm-up; 1 is the ELBO.")] = DEFAULTS.beta,
    ema: Annotated[float | None, real_option(f"Decay of the averaged weights, which are the result; {CHOSEN}.")] = None,
    clip: Annotated[float, real_option("Largest norm of the gradient; 0 for no limit.")] = DEFAULTS.clip,
    weight_norm: Annotated[bool, typer.Option(help="Use weight normalisation.")] = False,
    init: Annotated[
        str | None, typer.Option(help=f"First weights: torch, or data (scaled by outputs on the data); {CHOSEN}.")
    ] = None,
    samples: Annotated[int, integer_option("Draws per image: L of the ELBO, else K.")] = DEFAULTS.samples,
    binarize: Annotated[
        str, typer.Option(help="dynamic (drawn in each epoch) or none (grey levels); dynamic for bernoulli.")
    ] = "",
    augment: Annotated[str, typer.Option(help="Random changes of training images: flip, crop or flip,crop.")] = "",
    test_share: Annotated[
        float | None, real_option("Share of images held out as test split; by default 0.1 if the data have none.")
    ] = None,
    holdout: Annotated[int | None, integer_option(f"Training images held out for validation; {CHOSEN}.")] = None,
    patience: Annotated[
        int | None,
        integer_option(
            "Stop after so many epochs without a better validation, 0 for never; 0 with --epochs by default."
        ),
    ] = None,
    seed: Annotated[int, integer_option("Seed of all random draws.")] = DEFAULTS.seed,
    precision: Annotated[
        str | None, typer.Option(help="float32 or bfloat16, for the networks; chosen by images and CPU.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, integer_option("CPU threads; 0 for the default of torch.")] = 0,
) -> None:
    """Train a model by gradient ascent on the ELBO. Options that are not given are chosen from the data and printed."""
    values = dict(locals())  # first, so that it has the parameters alone
    with report_user_errors():
        from app.cli.options import Hardware, TrainingRun
        from app.cli.train import run_training

        given = frozenset(_given_options(context))
        run = TrainingRun(data, out, resume, keep_state, download, start and find_model(start), given)
        others = {"context", "data", "out", "recipe", "resume", "keep_state", "start", "download", "minutes"}
        options = {name: value for name, value in values.items() if name not in others | {"device", "threads"}}
        options["binarize"] = binarize or None
        run_training(run, options, Hardware(device, threads), minutes)


@cli.command()
def evaluate(
    model: Annotated[Path, typer.Option(help="The folder of the model, or the name of a shipped one.")],
    data: Annotated[
        Path, typer.Option(help="As for train; its test split is scored, or what the training held out of it.")
    ],
    test: Annotated[Path | None, typer.Option(help="Score these images in place of those of --data.")] = None,
    samples: Annotated[int, integer_option("Draws K per image of the importance-weighted bound.")] = 128,
    binarize: Annotated[str, typer.Option(help="dynamic (drawn once) or none; by default as in training.")] = "",
    limit: Annotated[int, integer_option("Score only the first images; 0 for all.")] = 0,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16, for the networks.")] = "float32",
    seed: Annotated[int, integer_option("Seed of all random draws.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Also write the figures to this JSON file.")] = None,
    save: Annotated[bool, typer.Option("--save", help="Save figures, plots and card in the model folder.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="With --save, replace earlier figures, also those of more images.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, integer_option("CPU threads; 0 for the default of torch.")] = 0,
) -> None:
    """Evaluate a model: two bounds on log p(x) with standard errors, bits per dimension, active units."""
    with report_user_errors():
        from app.cli.evaluate import run_evaluation
        from app.cli.options import EvaluationOptions, Hardware
        from app.cli.progress import print_figures
        from model.files import write_json

        model = find_model(model)
        if replace and not save:
            raise UserError("replace: expected together with --save")
        if save:
            from app.cli.report import require_saveable, save_evaluation

            require_saveable(model)
        options = EvaluationOptions(samples, binarize, seed, limit, precision)
        figures, images = run_evaluation(model, data, options, Hardware(device, threads).use(), test)
        try:
            if json:
                write_json(json, asdict(figures))
            if save:
                save_evaluation(model, images, figures, replace=replace)
        finally:  # the evaluation may have taken hours
            print_figures(asdict(figures))


@cli.command()
def calibrate(
    data: Annotated[
        list[str], typer.Option(help="Normal images that the model was not trained on, as the source of encode.")
    ],
    model: Annotated[str, typer.Option(help="The folder of the model, of any format, as for serve.")] = "",
    limit: Annotated[int, integer_option("Use only the first images; 0 for up to 20,000.")] = 0,
    threads: Annotated[int, integer_option("CPU threads; 0 for the default of torch.")] = 0,
) -> None:
    """Calibrate the typicality of /score by normal images, and write typicality.json into the folder of the model.

    Half of the images estimate the density of their statistics, the other half are the ranks of the p-value.
    """
    with report_user_errors():
        from app.cli.calibrate import run_calibration
        from app.cli.options import Hardware
        from app.settings import read_settings

        Hardware("cpu", threads).use()
        run_calibration(read_settings({"model": model} if model else {}).model, data, limit)


@cli.command()
def score(
    source: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Images, as for encode.")],
    out: Annotated[Path, typer.Option(help="Table of the scores, .csv or .parquet; pictures are written beside it.")],
    model: Annotated[str, typer.Option(help="The folder of the model or its name on the hub, as for serve.")] = "",
    alpha: Annotated[float | None, real_option("Mark images with a typicality of at most alpha as anomalous.")] = None,
    fail_above: Annotated[
        float | None, real_option("Exit with 4 if a larger share of the images is anomalous; needs --alpha.")
    ] = None,
    samples: Annotated[int | None, integer_option("Draws for each image, as the parameter of /score.")] = None,
    seed: Annotated[int, integer_option("Seed of the draws, as the parameter of /score.")] = 0,
    fit: Annotated[str, typer.Option(help="resize, pad, crop or exact, as for the service.")] = "resize",
    limit: Annotated[int, integer_option("Score only the first images; 0 for all.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N, as for serve.")] = "",
    precision: Annotated[str, typer.Option(help="float32 or bfloat16, as for serve.")] = "",
) -> None:
    """Score the images of a data set as /score does: a table, the least and most typical images, a histogram.

    Exits with 4 if a larger share than --fail-above is anomalous, else with 3 if an image could not be read.
    """
    with report_user_errors():
        from app.cli.score import ScoreOptions, run_score
        from app.settings import read_settings

        options = ScoreOptions(samples, seed, alpha, fail_above, fit, limit)  # type: ignore[arg-type]  # it checks them
        given = {"model": model, "device": device, "precision": precision}
        run_score(source, read_settings({name: value for name, value in given.items() if value}), out, options)


@cli.command()
def inspect(
    first: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="The model, as for --model. Without IMAGE a folder; a file is then the image, for the model of serve.",
        ),
    ] = None,
    image: Annotated[
        Path | None, typer.Argument(metavar="IMAGE", help="An image file that is encoded and decoded.")
    ] = None,
    model: Annotated[str, typer.Option(help="The folder of the model, or its name, as for serve.")] = "",
    out: Annotated[
        Path | None, typer.Option(help="PNG of original, reconstruction and error; IMAGE.inspection.png by default.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N, as for serve.")] = "",
    precision: Annotated[str, typer.Option(help="float32 or bfloat16, as for serve.")] = "",
) -> None:
    """Inspect a model: its sizes, its latents, and what the endpoints can do with it; exit with 2 if it is unusable.

    The variables of serve apply, so that the result is that of the service.
    """
    with report_user_errors():
        from app.cli.inspect import image_and_model, inspect_model, table
        from app.settings import read_settings

        image, model = image_and_model(first, image, model)
        options = {"model": model, "device": device, "precision": precision}
        settings = read_settings({name: value for name, value in options.items() if value})
        typer.echo(table(inspect_model(settings, image, out)))


@cli.command()
def encode(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="A folder, a pattern, a .txt file of paths, .npy, .npz, MNIST files, .zip or .tar archives, images.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the latents; it is continued if it has some of them.")],
    model: Annotated[str, typer.Option(help="The folder of the model, or its name, as for serve.")] = "",
    samples: Annotated[int, integer_option("Draws from the posterior of each image that are stored as well.")] = 0,
    seed: Annotated[int, integer_option("Seed of the draws; each image has its own by it and by its path.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16, of the stored latents.")] = "float32",
    scaled: Annotated[
        bool, typer.Option("--scaled", help="Store latents in the units of the diffusion model.")
    ] = False,
    fit: Annotated[str, typer.Option(help="resize, pad, crop or exact, as for the service.")] = "resize",
    bucket: Annotated[
        str,
        typer.Option(help="Sizes WxH,WxH of a model of many sizes; an image takes the nearest, by default its own."),
    ] = "",
    shard_size: Annotated[int, integer_option("Images of one shard at most; 0: up to 4096 and 128 MiB.")] = 0,
    batch_size: Annotated[int, integer_option("Images of one batch; 0: by the size of the images.")] = 0,
    verify: Annotated[
        bool, typer.Option("--verify", help="Find changed images by content, not by size and time.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try again what could not be read before.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first image that cannot be read.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, or several: cuda:0,cuda:1.")] = "",
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or float16, for the networks.")] = "",
    threads: Annotated[
        int, integer_option("Threads that read, decode, and on a CPU compute; 0: one for each core.")
    ] = 0,
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
        from app.cli.datasets import encode_options, run_encode
        from app.datasets.options import Hardware

        options = encode_options(
            fit=fit,
            bucket=bucket,
            samples=samples,
            seed=seed,
            dtype=dtype,
            scaled=scaled,
            shard_size=shard_size,
            verify=verify,
            retry=retry,
            strict=strict,
        )
        run_encode(source, model, out, options, Hardware(device, precision, threads, batch_size), ray)


@cli.command()
def decode(
    latents: Annotated[Path, typer.Argument(metavar="LATENTS", help="A folder that encode has written.")],
    out: Annotated[Path, typer.Option(help="Folder of the images; those that are there already are kept.")],
    model: Annotated[str, typer.Option(help="The model that encoded them, as for serve.")] = "",
    draw: Annotated[int | None, integer_option("Decode the draw of this number, from 0, in place of the mean.")] = None,
    image_format: Annotated[str, typer.Option(help="png, jpeg or webp.")] = "png",
    quality: Annotated[int, integer_option("Quality of JPEG and WebP, 1 to 100.")] = 90,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace images that are there already.")] = False,
    batch_size: Annotated[int, integer_option("Images of one batch; 0: by the size of the images.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "",
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or float16, for the networks.")] = "",
    threads: Annotated[
        int, integer_option("Threads that read and write, and on a CPU compute; 0: one for each core.")
    ] = 0,
) -> None:
    """Decode latents that encode has written: an image for each, under its relative path."""
    with report_user_errors():
        from app.cli.datasets import image_options, run_decode
        from app.datasets.options import Hardware

        options = image_options(image_format, quality, overwrite=overwrite)
        run_decode(latents, model, out, options, Hardware(device, precision, threads, batch_size), draw)


@cli.command()
def reconstruct(
    source: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Images, as for encode.")],
    out: Annotated[Path, typer.Option(help="Folder of the images; those that are there already are kept.")],
    model: Annotated[str, typer.Option(help="The folder of the model or its name on the hub, as for serve.")] = "",
    seed: Annotated[int | None, integer_option("Decode a draw from each posterior, in place of its mean.")] = None,
    fit: Annotated[str, typer.Option(help="resize, pad, crop or exact, as for the service.")] = "resize",
    bucket: Annotated[str, typer.Option(help="Sizes WxH,WxH of a model of many sizes, as for encode.")] = "",
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first image that cannot be read.")] = False,
    image_format: Annotated[str, typer.Option(help="png, jpeg or webp.")] = "png",
    quality: Annotated[int, integer_option("Quality of JPEG and WebP, 1 to 100.")] = 90,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace images that are there already.")] = False,
    batch_size: Annotated[int, integer_option("Images of one batch; 0: by the size of the images.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "",
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or float16, for the networks.")] = "",
    threads: Annotated[
        int, integer_option("Threads that read and write, and on a CPU compute; 0: one for each core.")
    ] = 0,
) -> None:
    """Encode and decode a data set: an image for each, under its relative path.

    Exits with 3 if an image could not be read; unreadable.txt has the reason.
    """
    with report_user_errors():
        from app.cli.datasets import encode_options, image_options, run_reconstruct
        from app.datasets.options import Hardware

        encoding = encode_options(fit=fit, bucket=bucket, strict=strict)
        options = image_options(image_format, quality, overwrite=overwrite)
        run_reconstruct(source, model, out, encoding, options, Hardware(device, precision, threads, batch_size), seed)


@cli.command()
def export(
    out: Annotated[Path, typer.Argument(help="Folder of the pair; it must not exist, or be empty.")],
    model: Annotated[str, typer.Option(help="The folder of the model, or its name, as for serve.")] = "",
) -> None:
    """Export an autoencoder of diffusers as a pair of ONNX graphs, which is served faster on a CPU. Takes minutes.

    The pair is compared with the model before it is written. Needs the extras diffusers and export.
    """
    with report_user_errors():
        from app.settings import read_settings
        from model.formats import read_model
        from model.formats.onnx.conversion import convert

        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"{out}: expected a new or empty folder")
        stored = read_model(read_settings({"model": model} if model else {}).model)
        typer.echo(f"exporting {stored.model.spec.identity}, which takes minutes", err=True)
        typer.echo(f"{convert(stored.model, out).identity} in {out}")


@contextmanager
def report_user_errors() -> Iterator[None]:
    """Report a `UserError` in one line on stderr, with exit code 2. Any other exception keeps its traceback."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        _exit(f"vae: {error}; install it with pip install 'vae-service[{extra}]'")
    except UserError as error:
        _exit(f"vae: {error}")


def _exit(line: str) -> NoReturn:
    """Exit with code 2 after a line on stderr, or after a second if stderr is a pipe that is full."""
    for handler in logging.root.handlers:
        handler.flush()  # the line is the last one
    writing = Thread(target=typer.echo, args=(line,), kwargs={"err": True}, daemon=True)
    writing.start()
    writing.join(1)
    if writing.is_alive():
        os._exit(2)
    raise typer.Exit(2) from None
