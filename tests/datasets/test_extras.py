"""Commands that write no latents need no optional module."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_PYARROW = """
import json, sys
sys.modules["pyarrow"] = None
import app.datasets.images
from typer.testing import CliRunner
from app.cli import cli
ended = [CliRunner().invoke(cli, line) for line in json.loads(sys.argv[1])]
print(json.dumps([[result.exit_code, result.stderr] for result in ended]))
"""
"""A program that reads images, and calls `vae` with each of several lines of arguments."""

NO_DATA, NO_EXTRA = "no such file or folder", "install it with pip install 'vae-service[datasets]'"
EXPECTED = {
    "score to a table in csv": NO_DATA,
    "score to a table in parquet": NO_EXTRA,
    "encode": NO_EXTRA,
    "decode": NO_EXTRA,
    "reconstruct": NO_EXTRA,
}


@pytest.fixture(scope="module")
def ended(digits_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and errors of each command, in one process: it takes seconds to start."""
    folder = tmp_path_factory.mktemp("extras")
    score = ["score", folder / "none", "--model", digits_model, "--out"]
    lines = {
        "score to a table in csv": [*score, folder / "scores.csv"],
        "score to a table in parquet": [*score, folder / "scores.parquet"],
        **{command: [command, folder, "--out", folder / "out"] for command in ("encode", "decode", "reconstruct")},
    }
    words = json.dumps([[*map(str, line)] for line in lines.values()])
    done = subprocess.run([sys.executable, "-c", WITHOUT_PYARROW, words], check=True, capture_output=True, text=True)
    return {name: (code, errors) for name, (code, errors) in zip(lines, json.loads(done.stdout), strict=True)}


@pytest.mark.parametrize("command", EXPECTED)
def test_a_command_that_needs_pyarrow_names_the_extra_and_others_do_without(ended, command: str) -> None:
    code, errors = ended[command]
    assert (code, errors.count("\n")) == (2, 1)
    assert EXPECTED[command] in errors
