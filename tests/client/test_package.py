"""The distribution `vae-client`, and the deprecated name of its package."""

import subprocess
import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest
import vae_client

import app.client

FOLDER = Path(__file__).parents[2] / "app" / "client"


def test_the_distribution_needs_only_its_own_files(tmp_path: Path) -> None:
    """The wheel with the libraries that it names, in a Python without site, where this project itself is not found."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=FOLDER, check=True)
    (wheel,) = tmp_path.glob("vae_client-*.whl")
    assert "vae_client/py.typed" in ZipFile(wheel).namelist()
    assert wheel.stat().st_size < 30_000
    lean = "import sys, vae_client; sys.exit(bool({'torch', 'PIL', 'fastapi', 'pydantic', 'app'} & {*sys.modules}))"
    paths = f"{wheel}:{sysconfig.get_paths()['purelib']}"
    subprocess.run([sys.executable, "-S", "-c", lean], check=True, env={"PYTHONPATH": paths})


@pytest.mark.parametrize("name", vae_client.__all__)
def test_the_earlier_name_of_the_package_works_with_a_warning(name: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"app.client.{name} is deprecated: pip install ./app/client"):
        assert getattr(app.client, name).__doc__ == getattr(vae_client, name).__doc__


def test_the_earlier_name_has_no_other_attributes() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'requests'"):
        _ = app.client.requests
