"""What the README tells is so: settings, endpoints, files."""

from pathlib import Path

import pytest

from app.main import create_app
from app.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_told_with_its_meaning(name: str) -> None:
    assert f"| `VAE_{name.upper()}` |" in README
    assert f"| {Settings.model_fields[name].description} |" in README


def test_every_endpoint_is_told(digits_model: Path) -> None:
    for path in create_app(Settings(model=digits_model)).openapi()["paths"]:
        assert path in README


@pytest.mark.parametrize("path", sorted([*ROOT.glob("app/*.py"), *ROOT.glob("model/*.py")]), ids=lambda path: path.name)
def test_every_module_has_its_caption_in_the_tree(path: Path) -> None:
    if path.name != "__init__.py":
        assert f"  {path.name} " in README


def test_every_module_opens_with_its_purpose_and_stays_short() -> None:
    for path in (*ROOT.glob("app/*.py"), *ROOT.glob("model/*.py")):
        lines = path.read_text().splitlines()
        assert lines[0].startswith('"""'), path
        assert len(lines) <= 250, path
