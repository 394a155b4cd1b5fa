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
from model.training.options import TrainingOptions

DEFAULTS = TrainingOptions()
DISTRIBUTION = "vae-service"

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

            excluded = {"data", "out", "resume", "download", "recipe", "help"}
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
    recipe: Annotated[  # noqa: ARG001  # its callback reads it
        str,
        typer.Option(
            is_eager=True,
            callback=_apply_recipe,
            help="Read options from a recipe: mnist-cpu (two cores, 55 minutes), mnist (one GPU) or a .toml file.",
        ),
    ] = "",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the training in --out with the options that it began with.")
    ] = False,
    start: Annotated[Path | None, typer.Option(help="Start from a trained model and its architecture.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Download MNIST into --data if it is missing.")] = False,
    image_shape: Annotated[str, typer.Option(help="C,H,W to which image files are resized.")] = "",
    latent: Annotated[str, typer.Option(help="Latent shape: D, or Cz,h,w.")] = "32",
    stride: Annotated[int, integer_option("Stride of the first convolution, 1 or 2.")] = 2,
    channels: Annotated[str, typer.Option(help='Feature maps at each resolution; "" for an MLP.')] = "32,32",
    blocks: Annotated[str, typer.Option(help="Residual blocks at each resolution; one each by default.")] = "",
    hidden: Annotated[str, typer.Option(help="Widths of the fully connected layers.")] = "450",
    likelihood: Annotated[str, typer.Option(help="bernoulli, gaussian, gaussian-learned or logistic.")] = "bernoulli",
    scale: Annotated[float, real_option("Standard deviation of the gaussian likelihood, pixels in [0, 1].")] = 0.1,
    objective: Annotated[str, typer.Option(help="elbo, or the importance-weighted iwae or dreg.")] = DEFAULTS.objective,
    epochs: Annotated[int, integer_option("Passes over the training images.")] = DEFAULTS.epochs,
    batch_size: Annotated[int, integer_option("Images for each step.")] = DEFAULTS.batch_size,
    learning_rate: Annotated[float, real_option("Highest learning rate of Adam.")] = DEFAULTS.learning_rate,
    warmup: Annotated[int, integer_option("Steps until the highest learning rate.")] = DEFAULTS.warmup,
    schedule: Annotated[str, typer.Option(help="cosine (to zero) or constant.")] = DEFAULTS.schedule,
    kl_warmup: Annotated[
        float | None, real_option("Epochs until the weight of the KL is 1; 5 by default, 0 with --start.")
    ] = None,
    ema: Annotated[float, real_option("Decay of the averaged weights, which are the result.")] = DEFAULTS.ema,
    clip: Annotated[float, real_option("Largest norm of the gradient; 0 for no limit.")] = DEFAULTS.clip,
    weight_norm: Annotated[bool, typer.Option(help="Use weight normalisation.")] = False,
    samples: Annotated[int, integer_option("Draws per image: L of the ELBO, else K.")] = DEFAULTS.samples,
    binarize: Annotated[
        str, typer.Option(help="dynamic (drawn in each epoch) or none (grey levels); dynamic for bernoulli.")
    ] = "",
    holdout: Annotated[int, integer_option("Training images held out for validation.")] = DEFAULTS.holdout,
    seed: Annotated[int, integer_option("Seed of all random draws.")] = DEFAULTS.seed,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16, for the networks.")] = DEFAULTS.precision,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, integer_option("CPU threads; 0 for the default of torch.")] = 0,
) -> None:
    """Train a model by gradient ascent on the ELBO. The defaults suit MNIST."""
    with report_user_errors():
        from app.cli.options import Architecture, Hardware, TrainingRun
        from app.cli.train import run_training

        options = {
            "objective": objective,
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "warmup": warmup,
            "schedule": schedule,
            "kl_warmup": kl_warmup,
            "ema": ema,
            "clip": clip,
            "weight_norm": weight_norm,
            "samples": samples,
            "binarize": binarize,
            "holdout": holdout,
            "seed": seed,
            "precision": precision,
        }
        architecture = Architecture(image_shape, latent, stride, channels, blocks, hidden, likelihood, scale)
        run = TrainingRun(data, out, resume, download, start, frozenset(_given_options(context)))
        run_training(run, architecture, options, Hardware(device, threads))


@cli.command()
def evaluate(
    model: Annotated[Path, typer.Option(help="The folder of the model.")],
    data: Annotated[Path, typer.Option(help="As for train; the test split is scored, or all images without one.")],
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

        if replace and not save:
            raise UserError("replace: expected together with --save")
        if save:
            from app.cli.report import require_saveable, save_evaluation

            require_saveable(model)
        options = EvaluationOptions(samples, binarize, seed, limit, precision)
        figures = run_evaluation(model, data, options, Hardware(device, threads).use())
        try:
            if json:
                write_json(json, asdict(figures))
            if save:
                save_evaluation(model, data, figures, replace=replace)
        finally:  # the evaluation may have taken hours
            print_figures(asdict(figures))


@contextmanager
def report_user_errors() -> Iterator[None]:
    """Report a `UserError` in one line on stderr, with exit code 2. Any other exception keeps its traceback."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        _exit(f"vae: {error}; install it with pip install 'vae-service[train]'")
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
