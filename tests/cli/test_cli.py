"""The `vae` command: its version, and arguments that it refuses before a command runs."""

import tomllib
from pathlib import Path

import pytest

from tests.support.cli_runner import refusal, vae

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def test_the_version_is_that_of_the_project():
    result = vae("--version")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{PROJECT['name']} {PROJECT['version']}\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nothing", "No such command 'nothing'; vae -h prints the options"),
        ("--nothing", "No such option: --nothing; vae -h prints the options"),
        ("train", "--data: expected a value, got none; vae train -h prints the options"),
        ("train --data x", "--out: expected a value, got none; vae train -h prints the options"),
        ("train --data x --out", "Option '--out' requires an argument; vae train -h prints the options"),
        ("train --data x --out y z", "Got unexpected extra argument(s) (z); vae train -h prints the options"),
        ("train --resume=no", "Option '--resume' does not take a value; vae train -h prints the options"),
        ("evaluate --samples 1.5", "--samples: expected an integer, got '1.5'; vae evaluate -h prints the options"),
        ("encode", "source: expected a value, got none; vae encode -h prints the options"),
        ("decode x --out y --draw a", "--draw: expected an integer, got 'a'; vae decode -h prints the options"),
        ("score x --out y --alpha a", "--alpha: expected a number, got 'a'; vae score -h prints the options"),
        ("export", "out: expected a value, got none; vae export -h prints the options"),
    ],
)
def test_arguments_that_no_command_takes_are_refused_in_one_line(line: str, message: str) -> None:
    assert refusal(vae(line)) == message


def test_the_command_alone_prints_its_help() -> None:
    assert "Serve a model over HTTP." in vae("").stderr
