"""The examples in docs/datasets.md run as they are printed."""

import re
import shutil
from pathlib import Path

import pytest

from tests.support.image_folders import write_images

DOCUMENT = Path(__file__).parents[2] / "docs" / "datasets.md"


def test_the_examples_from_python_run(
    colour_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(colour_model, tmp_path / "runs" / "mine")
    write_images(tmp_path / "photos", 3)
    monkeypatch.chdir(tmp_path)
    section = DOCUMENT.read_text().split("## From Python")[1].split("\n## ")[0]
    examples = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        exec(example, {})  # the text is in the repository
    assert capsys.readouterr().out == "3 0 0 []\n3 3\n"
