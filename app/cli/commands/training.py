"""`vae train`, `vae evaluate` and `vae calibrate`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from app.cli.commands.parameters import Model, TorchDevice, TorchThreads
from app.cli.errors import report_user_errors
from app.cli.number_options import integer_option, real_option
from app.server.startup import without_collections
from model.errors import OptionsError
from model.shipped import find_model
from model.training.options import TrainingOptions

DEFAULTS = TrainingOptions()
CHOSEN = "chosen from the data"


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
            "minutes, with --start mnist), emoji (12 minutes), photos (2 minutes) or a .toml file.",
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
    device: TorchDevice = "auto",
    threads: TorchThreads = 0,
) -> None:
    """Train a model by gradient ascent on the ELBO. Options that are not given are chosen from the data and printed."""
    values = dict(locals())  # first, so that it has the parameters alone
    with report_user_errors():
        with without_collections():
            from app.cli.options import Hardware, TrainingRun
            from app.cli.train import run_training

        given = frozenset(_given_options(context))
        run = TrainingRun(data, out, resume, keep_state, download, start and find_model(start), given)
        others = {"context", "data", "out", "recipe", "resume", "keep_state", "start", "download", "minutes"}
        options = {name: value for name, value in values.items() if name not in others | {"device", "threads"}}
        options["binarize"] = binarize or None
        run_training(run, options, Hardware(device, threads), minutes)


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
    device: TorchDevice = "auto",
    threads: TorchThreads = 0,
) -> None:
    """Evaluate a model: two bounds on log p(x) with standard errors, bits per dimension, active units."""
    with report_user_errors():
        with without_collections():
            from app.cli.evaluate import run_evaluation
            from app.cli.options import EvaluationOptions, Hardware
            from app.cli.progress import print_figures
            from model.files import write_json

        model = find_model(model)
        if replace and not save:
            raise OptionsError("replace: expected together with --save")
        if save:
            with without_collections():
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


def calibrate(
    data: Annotated[
        list[str], typer.Option(help="Normal images that the model was not trained on, as the source of encode.")
    ],
    model: Model = "",
    limit: Annotated[int, integer_option("Use only the first images; 0 for up to 20,000.")] = 0,
    threads: TorchThreads = 0,
) -> None:
    """Calibrate the typicality of /score by normal images, and write typicality.json into the folder of the model.

    Half of the images estimate the density of their statistics, the other half are the ranks of the p-value.
    """
    with report_user_errors():
        with without_collections():
            from app.cli.calibrate import run_calibration
            from app.cli.options import Hardware
            from app.cli.serve import settings_with

        Hardware("cpu", threads).use()
        run_calibration(settings_with(model=model).model, data, limit)
