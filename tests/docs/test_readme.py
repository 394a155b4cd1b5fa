"""What the README tells is so: settings, endpoints, files."""

from pathlib import Path

import pytest

from app.main import create_app
from app.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_told_with_its_meaning(name: str) -> None:
    assert f"| `VAE_{name.upper()}` |" in README
    assert f"| {Settings.model_fields[name].description} |" in README


def test_every_endpoint_is_told(digits_model: Path) -> None:
    for path in create_app(Settings(model=digits_model)).openapi()["paths"]:
        assert path in README


def test_every_package_is_in_the_readme() -> None:
    for root in ("app", "model"):
        for package in (ROOT / root).rglob("__init__.py"):
            assert f"`{package.parent.relative_to(ROOT)}" in README


def test_every_module_opens_with_a_docstring() -> None:
    modules = [path for root in ("app", "model") for path in (ROOT / root).rglob("*.py")]
    assert len(modules) > 100
    for path in modules:
        assert path.read_text().startswith('"""'), path
