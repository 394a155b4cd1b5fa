"""Tests that the documents agree with the code: settings, endpoints, links, commands, docstrings."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.api.dialects import DIALECTS
from app.main import create_app
from app.settings import Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for folder in (
        ".",
        "docs",
        "docs/adr",
        "deploy",
        "benchmarks",
        "app/client",
        "model/checkpoints/mnist",
        "model/checkpoints/mnist-iwae",
        "model/checkpoints/emoji",
    )
    for path in (ROOT / folder).glob("*.md")
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
METRIC = re.compile(r"`(vae_[a-z_]+)`")
MAKE_TARGET = re.compile(r"(?:^    |`)make ([\w./]+)", re.MULTILINE)
BENCHMARK = re.compile(r"-m benchmarks\.([a-z_]+)")
PATH = re.compile(r"`((?:app|model|tests|docs|benchmarks|deploy)/[\w./-]*)`")


def text_of(path: Path | str) -> str:
    return (ROOT / path).read_text()


def documents_with(pattern: re.Pattern[str], *without: str) -> list[Path]:
    """Return the documents in which a pattern is found, other than those of these names."""
    return [path for path in DOCUMENTS if path.name not in without and pattern.search(text_of(path))]


def anchors(path: Path) -> set[str]:
    """Return the anchors of the headings of a Markdown file, as GitHub makes them."""
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text_of(path))]
    return {heading.strip().replace(" ", "-") for heading in plain}


def test_generated_pages_are_up_to_date() -> None:
    check = subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--check"], check=False)
    assert check.returncode == 0, "docs/configuration.md or docs/metrics.md is out of date: run make docs"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented(name: str) -> None:
    assert f"| `VAE_{name.upper()}` |" in text_of("docs/configuration.md")


def test_every_endpoint_is_documented(digits_model: Path) -> None:
    dialects = tuple(dialect.prefix for dialect in DIALECTS)
    for path in create_app(Settings(model=digits_model, api_key="key")).openapi()["paths"]:
        if not path.startswith(dialects):
            assert f"{path}`" in text_of("docs/api.md"), path
            assert f"{path}`" in text_of("README.md"), path
    for prefix in dialects:
        assert f"{prefix}/" in text_of("docs/dialects.md"), prefix


@pytest.mark.parametrize("document", documents_with(METRIC, "CHANGELOG.md"), ids=str)  # it has earlier names as well
def test_every_metric_in_the_documents_exists(document: Path) -> None:
    for name in METRIC.findall(text_of(document)):
        assert f"`{name}`" in text_of("docs/metrics.md"), name


@pytest.mark.parametrize("document", documents_with(LINK), ids=str)
def test_every_link_between_documents_resolves(document: Path) -> None:
    for link in LINK.findall(text_of(document)):
        if link.startswith(("http:", "https:")):
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / document).parent / target if target else ROOT / document
        assert path.exists(), link
        if anchor:
            assert anchor in anchors(path.resolve()), link


@pytest.mark.parametrize("document", documents_with(MAKE_TARGET), ids=str)
def test_every_make_target_in_the_documents_exists(document: Path) -> None:
    targets = re.findall(r"^([\w./-]+):", text_of("Makefile"), re.MULTILINE)
    for target in MAKE_TARGET.findall(text_of(document)):
        assert target in targets


@pytest.mark.parametrize("document", documents_with(BENCHMARK), ids=str)
def test_every_benchmark_in_the_documents_exists(document: Path) -> None:
    for name in BENCHMARK.findall(text_of(document)):
        assert (ROOT / "benchmarks" / f"{name}.py").exists(), name


@pytest.mark.parametrize("document", documents_with(PATH, "CHANGELOG.md", "experiments.md"), ids=str)
def test_every_path_in_the_documents_exists(document: Path) -> None:
    made = {"benchmarks/.venv", "benchmarks/results/", "deploy/keys.txt"}  # by a program or the operator
    for path in PATH.findall(text_of(document)):
        assert path in made or (ROOT / path).exists(), path


def test_every_decision_record_is_listed() -> None:
    records = list((ROOT / "docs" / "adr").glob("0*.md"))
    assert records
    for record in records:
        assert f"]({record.name})" in text_of("docs/adr/README.md"), record.name


def test_every_module_starts_with_a_docstring() -> None:
    modules = [path for root in ("app", "model") for path in (ROOT / root).rglob("*.py")]
    assert len(modules) > 100
    for path in modules:
        assert path.read_text().startswith('"""'), path
