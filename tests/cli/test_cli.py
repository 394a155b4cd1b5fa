"""The `vae` command without a subcommand."""

import tomllib
from pathlib import Path

from tests.support.cli_runner import vae

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def test_the_version_is_that_of_the_project():
    result = vae("--version")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{PROJECT['name']} {PROJECT['version']}\n"
