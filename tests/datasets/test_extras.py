"""Commands that write no latents need no optional module."""

import subprocess
import sys
from pathlib import Path

WITHOUT_PYARROW = "import sys; sys.modules['pyarrow'] = None; from app.cli import cli; cli()"


def vae(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_PYARROW, *map(str, words)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_images_are_read_without_pyarrow() -> None:
    code = "import sys; sys.modules['pyarrow'] = None; import app.datasets.images"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_table_in_csv_needs_no_pyarrow_and_one_in_parquet_names_the_extra(digits_model: Path, tmp_path: Path) -> None:
    for suffix, message in ((".csv", "no such file or folder"), (".parquet", "pip install 'vae-service[datasets]'")):
        done = vae("score", tmp_path / "none", "--model", digits_model, "--out", tmp_path / f"scores{suffix}")
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_command_that_needs_pyarrow_names_the_extra(tmp_path: Path) -> None:
    for command in ("encode", "decode", "reconstruct"):
        done = vae(command, tmp_path, "--out", tmp_path / "out")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "install it with pip install 'vae-service[datasets]'" in done.stderr
