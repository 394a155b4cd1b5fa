"""Recipes: files with options of `vae train`, the hardware they need and the figures they reach."""

import tomllib
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import model
from model.errors import OptionsError, reporting_file

SHIPPED = Path(*model.__path__) / "recipes"


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe: `options` of `vae train` by name, and texts for the user."""

    about: str
    hardware: str
    time: str
    figures: str
    options: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.about}; {self.hardware}, {self.time}; {self.figures}"


def read_recipe(name: str, known: set[str], flags: Container[str] = ()) -> Recipe:
    """Read the shipped recipe of this name, or a recipe file.

    `known` are the options that it may set, `flags` the ones among them that are true or false.
    """
    path = Path(name) if name.endswith(".toml") else SHIPPED / f"{name}.toml"
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.toml")))
        missing = "no such file" if name.endswith(".toml") else f"expected {shipped} or a .toml file"
        raise OptionsError(f"recipe: {missing}, got {name!r}")
    try:
        with reporting_file(path):
            content = path.read_text()
        values = tomllib.loads(content)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionsError(f"recipe: {path}: not TOML: {error}") from None
    if {*values} != {*Recipe.__slots__}:
        fields, got = ", ".join(Recipe.__slots__), ", ".join(values) or "none"
        raise OptionsError(f"recipe: {path}: expected exactly the fields {fields}, got {got}")
    recipe = Recipe(**values)
    if not isinstance(recipe.options, dict):
        raise OptionsError(f"recipe: {path}: options: expected a table, got {recipe.options!r}")
    if unknown := sorted(set(recipe.options) - known):
        raise OptionsError(f"recipe: {path}: {unknown[0]} is not an option of vae train")
    for option, value in recipe.options.items():
        if isinstance(value, bool) and option not in flags:
            raise OptionsError(f"recipe: {path}: {option}: expected a number or text, got {str(value).lower()}")
    return recipe
