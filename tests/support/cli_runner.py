"""The `vae` command as it is called: in this process, or in one of its own."""

import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from app.cli import cli

VAE = [sys.executable, "-c", "from app.cli import main; main()"]
SMALL = (
    "--channels 8 --hidden 16 --latent 3 --likelihood bernoulli --batch-size 50 --kl-warmup 1 --warmup 5 --threads 1 "
    "--device cpu"
)


def vae(line: str, *words: str | Path) -> Result:
    return CliRunner().invoke(cli, [*line.split(), *map(str, words)])


def refusal(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("vae: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.strip().removeprefix("vae: ")
