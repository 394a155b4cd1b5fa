"""Parameters of `vae serve`: the folder of the model, and an option for each field of `Settings`."""

from dataclasses import make_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from app.settings import Settings, SettingsError, option_of, read_settings, variable_of

FOLDER = "folder"


@cache
def serve_parameters() -> tuple[Any, ...]:
    """Return the parameters of the command, from a signature that typer reads.

    Typer converts no value, so that options and variables are checked alike, by `Settings`.
    """
    folder = Annotated[
        Path | None, typer.Argument(metavar="MODEL", help="The folder of the model, or its name, as --model.")
    ]
    options = [_option(name, field) for name, field in Settings.model_fields.items()]
    app = typer.Typer(add_completion=False)
    app.command(add_help_option=False)(make_dataclass("Parameters", [(FOLDER, folder, None), *options]))
    return tuple(typer.main.get_command(app).params)


def given_settings(context: typer.Context) -> dict[str, Any]:
    """Return the settings that the command line gives, by the name of the field."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = {name: context.params[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}
    if FOLDER in given:
        folder = str(given.pop(FOLDER))
        if given.setdefault("model", folder) != folder:
            raise SettingsError(f"model: expected one folder, got {folder!r} and {given['model']!r} from --model")
    return given


def settings_with(**options: str) -> Settings:
    """Return the settings of the service with options of another command; an empty one is not given."""
    return read_settings({name: value for name, value in options.items() if value})


def _option(name: str, field: FieldInfo) -> tuple[str, Any, Any]:
    """Return name, type and default of a keyword argument that typer reads as an option."""
    kind = _plain_type(field.annotation)
    flags = f"/{option_of(f'no_{name}')}" if kind is bool else ""
    option = typer.Option(
        option_of(name) + flags,
        help=field.description,
        envvar=variable_of(name),
        parser=_unchanged,
        metavar="<path>" if kind is Path else None,  # typer has a name for the other types
    )
    return name, Annotated[kind, option], field.default


def _plain_type(annotation: Any) -> Any:
    """Return the type of a value on the command line: int, float, bool, str, Path or a `Literal`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Annotated, Union, UnionType):
        return _plain_type(next(kind for kind in arguments if kind is not NoneType))
    return str if annotation is SecretStr or origin is tuple else annotation


def _unchanged(value: Any) -> Any:
    return value
