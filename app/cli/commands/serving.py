"""`vae serve`, `vae inspect` and `vae export`: commands on one model."""

import logging
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from app.cli.commands.parameters import Device, Model, Precision
from app.cli.errors import report_user_errors
from app.server.startup import without_collections
from model.errors import UserError
from model.formats import check_model


class ServeCommand(TyperCommand):
    """A command with a parameter for each setting; the settings are imported when the parameters are needed."""

    def get_params(self, ctx: Any) -> list[Any]:
        from app.cli.serve import serve_parameters

        return [*serve_parameters(), *super().get_params(ctx)]

    def invoke(self, ctx: Any) -> None:
        """Call the function of the command, which finds the values in its context."""
        ctx.invoke(self.callback)


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
    model: Model = "",
    out: Annotated[
        Path | None, typer.Option(help="PNG of original, reconstruction and error; IMAGE.inspection.png by default.")
    ] = None,
    device: Device = "",
    precision: Precision = "",
) -> None:
    """Inspect a model: its sizes, its latents, and what the endpoints can do with it; exit with 2 if it is unusable.

    The variables of serve apply, so that the result is that of the service.
    """
    with report_user_errors():
        with without_collections():
            from app.cli.inspect import image_and_model, inspect_model, table
            from app.cli.serve import settings_with

        image, model = image_and_model(first, image, model)
        settings = settings_with(model=model, device=device, precision=precision)
        typer.echo(table(inspect_model(settings, image, out)))


def export(
    out: Annotated[Path, typer.Argument(help="Folder of the pair; it must not exist, or be empty.")],
    model: Model = "",
) -> None:
    """Export an autoencoder of diffusers as a pair of ONNX graphs, which is served faster on a CPU. Takes minutes.

    The pair is compared with the model before it is written. Needs the extras diffusers and export.
    """
    with report_user_errors():
        with without_collections():
            from app.cli.serve import settings_with
            from model.formats import read_model
            from model.formats.onnx.conversion import convert

        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"out: expected a new or empty folder, got {out} with files")
        stored = read_model(settings_with(model=model).model)
        typer.echo(f"exporting {stored.model.spec.identity}, which takes minutes", err=True)
        typer.echo(f"{convert(stored.model, out).identity} in {out}")
