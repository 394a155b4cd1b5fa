"""Recipes: files of options, which options of the command line override."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from app.cli.recipes import SHIPPED, read_recipe
from model.checkpoint import METRICS
from tests.support.cli_runner import SMALL, refusal, vae

OTHERS = {"stride", "channels", "blocks", "hidden", "latent", "likelihood", "threads"}
ABOUT = 'about = "a"\nhardware = "h"\ntime = "t"\nfigures = "f"\n'


@pytest.fixture
def data(tmp_path: Path, digits: np.ndarray) -> Path:
    np.save(tmp_path / "digits.npy", digits[:200, 0])
    return tmp_path / "digits.npy"


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.toml")))
def test_a_shipped_recipe_trains(name: str, data: Path, tmp_path: Path):
    small = "--channels 4,4,4 --blocks 1,1,1 --latent 8,1,1 --hidden 8 --precision float32"
    few = f"--epochs 1 --holdout 20 --warmup 1 --kl-warmup 1 --device cpu {small}"
    result = vae(f"train --recipe {name} {few}", "--data", data, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert f"recipe {name}: " in result.stderr
    kept = json.loads((tmp_path / "run" / METRICS).read_text())["training"]["options"]
    given = read_recipe(name, set(kept) | OTHERS).options
    for option in given.keys() & kept.keys() - {"epochs", "holdout", "precision", "warmup", "kl_warmup"}:
        assert kept[option] == given[option]
    assert (kept["epochs"], kept["holdout"]) == (1, 20)


def test_a_recipe_can_be_a_file(data: Path, tmp_path: Path):
    (tmp_path / "mine.toml").write_text(ABOUT + '[options]\nbatch_size = 50\nobjective = "dreg"\nweight_norm = true')
    small = SMALL.replace("--batch-size 50", "").replace("--warmup 5", "")
    line = f"train --recipe {tmp_path / 'mine.toml'} {small} --epochs 1 --samples 3"
    result = vae(line, "--data", data, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    kept = json.loads((tmp_path / "run" / METRICS).read_text())["training"]["options"]
    assert (kept["batch_size"], kept["objective"], kept["weight_norm"], kept["samples"]) == (50, "dreg", True, 3)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("about = ", "not TOML"),
        (ABOUT, "expected exactly the fields about, hardware, time, figures, options"),
        (ABOUT + "options = 3", "options: expected a table, got 3"),
        (ABOUT + 'options = ["epochs"]', "options: expected a table, got ['epochs']"),
        (ABOUT + "[options]\nbatch_size = true", "batch_size: expected a number or text, got true"),
        (ABOUT + "[options]\nstart = false", "start: expected a number or text, got false"),
        (ABOUT + "more = 1\n[options]", "time, figures, options, got about, hardware, time, figures, more, options"),
        (ABOUT + "[options]\nepoch = 3", "epoch is not an option of vae train"),
        (ABOUT + '[options]\nout = "elsewhere"', "out is not an option of vae train"),
        (ABOUT + "[options]\nchannels = [8, 8]", "channels: expected integers like 4,7,7, got '[8, 8]'"),
        (ABOUT + "[options]\nepochs = 2.5", "--epochs: expected an integer, got 2.5"),
        (ABOUT + '[options]\nobjective = "better"', "objective: expected elbo, iwae or dreg, got 'better'"),
    ],
)
def test_an_invalid_recipe_file_is_reported_in_one_line(data: Path, tmp_path: Path, text: str, reason: str):
    (tmp_path / "mine.toml").write_text(text)
    result = vae(f"train --recipe {tmp_path / 'mine.toml'}", "--data", data, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert reason in result.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_every_shipped_recipe_is_in_the_help_and_in_the_documents():
    document = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    shown = re.sub(r"(?<=-)\s+", "", vae("train --help").stdout)  # a line may end with a hyphen
    for path in SHIPPED.glob("*.toml"):
        assert f"| `{path.stem}` |" in document
        assert re.search(rf"[ :]{path.stem}\s+\(", shown)


def test_the_recipe_in_the_documents_is_valid(tmp_path: Path):
    document = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    (tmp_path / "mine.toml").write_text(document.split("```toml\n")[1].split("```")[0])
    result = vae(f"train --recipe {tmp_path / 'mine.toml'} --data {tmp_path / 'nowhere'} --out {tmp_path / 'run'}")
    assert result.stderr.startswith(f"recipe {tmp_path / 'mine.toml'}: Faces of 64 x 64 pixels, in colour; ")
    assert result.stderr.endswith(f"vae: {tmp_path / 'nowhere'}: no such file or folder\n")


def test_an_unknown_recipe_is_reported_with_the_known_ones(tmp_path: Path):
    message = refusal(vae("train --recipe cifar --data x --out y"))
    assert message == "--recipe: expected emoji, mnist, mnist-cpu, mnist-iwae, photos or a .toml file, got 'cifar'"
