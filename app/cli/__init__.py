"""The `vae` command. Errors that a user can correct are reported in one line, with exit code 2."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from app.cli.commands.datasets import decode, encode, reconstruct, score
from app.cli.commands.serving import ServeCommand, export, inspect, serve
from app.cli.commands.training import calibrate, evaluate, train
from app.cli.errors import OneLineErrors
from app.server.startup import prepare_command

DISTRIBUTION = "vae-service"

cli = typer.Typer(
    cls=OneLineErrors,
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


cli.command(cls=ServeCommand)(serve)
for command in (train, evaluate, calibrate, score, inspect, encode, decode, reconstruct, export):
    cli.command()(command)
