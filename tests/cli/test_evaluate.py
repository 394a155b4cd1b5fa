"""`vae evaluate`: figures are printed, written and saved; user errors give one line and exit code 2."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from app.cli.report import save_evaluation
from model.checkpoint import METRICS, read_checkpoint, write_checkpoint
from model.data.datasets import read_dataset
from model.data.splits import held_out
from model.files import WEIGHTS, CheckpointError, write_json
from model.formats import read_model
from model.records import EvaluationRecord
from tests.support.cli_runner import SMALL, VAE, refusal, vae
from tests.support.models import DIGITS, build


def test_an_evaluation_is_printed_written_and_saved(trained: Path, data: Path, tmp_path: Path) -> None:
    line = "evaluate --samples 3 --seed 5 --save --device cpu"
    result = vae(line, "--model", trained, "--data", data, "--json", tmp_path / "figures.json")
    assert result.exit_code == 0, result.output
    assert f"vae: figures, percentiles and pictures are saved in {trained}\n" in result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    kept = json.loads((trained / METRICS).read_text())
    assert kept["evaluations"] == [figures]
    assert kept["inputs"].keys() == {"grey", "threshold", "draw"}
    assert read_checkpoint(trained).reference.auroc.keys() >= {"noise", "letters"}
    assert read_model(trained).typicality.described == "100 images of the test split"
    assert (figures["images"], figures["samples"], figures["seed"], figures["split"]) == (100, 3, 5, "test split")
    assert figures["binarize"] == "dynamic"
    assert figures["elbo"] <= figures["log_likelihood"]
    assert f"{figures['log_likelihood']:.4f}" in result.stdout
    assert f"{figures['log_likelihood']:.2f} ±" in (trained / "README.md").read_text()


@pytest.fixture
def split(tmp_path: Path, digits: np.ndarray) -> Path:
    """An array of 300 digits without a test split."""
    np.save(tmp_path / "all.npy", digits[:300, 0])
    return tmp_path / "all.npy"


def test_figures_of_training_images_are_labelled_as_such(split: Path, tmp_path: Path) -> None:
    paths = ("--data", split)
    line = f"train {SMALL} --epochs 1 --test-share 0 --holdout 0"
    assert vae(line, *paths, "--out", tmp_path / "run").exit_code == 0
    assert vae("evaluate --samples 1 --save --device cpu", *paths, "--model", tmp_path / "run").exit_code == 0
    card = (tmp_path / "run" / "README.md").read_text()
    assert "Means over 300 images of the training split" in card
    assert "over the 300 images of the training split: 5 % are below" in card
    assert "held-out" not in card.lower()


def test_images_that_the_training_held_out_are_evaluated(split: Path, tmp_path: Path, digits: np.ndarray) -> None:
    result = vae(f"train {SMALL} --epochs 1 --seed 3", "--data", split, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    expected = digits[:300][held_out(digits[:300], 0.1, 3)]
    np.save(tmp_path / "grown.npy", np.concatenate([digits[:300, 0], digits[900:, 0]]))  # in another order, and more
    for data, more in ((split, 0), (tmp_path / "grown.npy", held_out(digits[900:], 0.1, 3).sum())):
        where = ("--model", tmp_path / "run", "--data", data, "--json", tmp_path / "figures.json")
        assert vae("evaluate --samples 1 --device cpu", *where).exit_code == 0
        figures = json.loads((tmp_path / "figures.json").read_text())
        assert figures["images"] == len(expected) + more
        assert figures["split"] == "test split that was held out of the training data (seed 3)"


def test_other_images_can_be_evaluated(split: Path, data: Path, trained: Path, tmp_path: Path) -> None:
    line = ("--model", trained, "--data", data, "--test", split, "--json", tmp_path / "figures.json")
    assert vae("evaluate --samples 1 --device cpu", *line).exit_code == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["images"], figures["split"]) == (300, "data set all.npy")


def test_a_data_set_without_images_of_the_test_split_is_refused(split: Path, tmp_path: Path, digits) -> None:
    assert vae(f"train {SMALL} --epochs 1", "--data", split, "--out", tmp_path / "run").exit_code == 0
    np.save(tmp_path / "seen.npy", digits[:300, 0][~held_out(digits[:300], 0.1, 0)])
    message = refusal(vae("evaluate --device cpu", "--model", tmp_path / "run", "--data", tmp_path / "seen.npy"))
    assert message.endswith("no image is in the test split of the training; expected --test with other images")


def test_evaluations_with_different_numbers_of_draws_are_all_kept(trained: Path, data: Path) -> None:
    for samples in (2, 5, 2):
        line = f"evaluate --samples {samples} --limit 9 --save --device cpu"
        assert vae(line, "--model", trained, "--data", data).exit_code == 0
    kept = json.loads((trained / METRICS).read_text())["evaluations"]
    assert [figures["samples"] for figures in kept if figures["images"] == 9] == [2, 5]
    assert [f"K = {samples} |" in (trained / "README.md").read_text() for samples in (2, 5)] == [True, True]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def evaluated(digits_model: Path, data: Path, tmp_path: Path) -> Path:
    """A model that was evaluated on all 100 test images by 2 draws."""
    shutil.copytree(digits_model, tmp_path / "evaluated")
    result = vae(
        "evaluate --samples 2 --save --device cpu --threads 1", "--model", tmp_path / "evaluated", "--data", data
    )
    assert result.exit_code == 0, result.output
    return tmp_path / "evaluated"


def test_an_evaluation_of_fewer_images_is_saved_and_replaces_no_larger_one(evaluated: Path, data: Path) -> None:
    before, metrics = contents(evaluated), json.loads((evaluated / METRICS).read_text())
    for samples in (2, 5):
        line = f"evaluate --samples {samples} --limit 2 --save --device cpu"
        result = vae(line, "--model", evaluated, "--data", data)
        assert result.exit_code == 0, result.output
        assert "percentiles, plots and card are those of 100 images, more than these 2" in result.stderr
    kept = json.loads((evaluated / METRICS).read_text())
    assert [(each["samples"], each["images"]) for each in kept["evaluations"]] == [(2, 2), (2, 100), (5, 2)]
    assert kept["evaluations"][1] == metrics["evaluations"][0]
    assert kept["reference"] == metrics["reference"]
    assert kept["reference"]["images"] == 100
    assert contents(evaluated) == before | {METRICS: (evaluated / METRICS).read_bytes()}


def test_a_larger_evaluation_replaces_a_smaller_one(digits_model: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(digits_model, tmp_path / "model")
    for limit in (9, 9, 0):
        line = f"evaluate --samples 2 --limit {limit} --save --device cpu"
        result = vae(line, "--model", tmp_path / "model", "--data", data)
        assert result.exit_code == 0, result.output
        assert "stay" not in result.stderr
    kept = json.loads((tmp_path / "model" / METRICS).read_text())
    assert [each["images"] for each in kept["evaluations"]] == [9, 100]
    assert kept["reference"]["images"] == 100
    assert "Means over 100 images" in (text := (tmp_path / "model" / "README.md").read_text())
    assert "Means over 9 images" not in text


def test_replace_lets_figures_of_fewer_images_replace_earlier_ones(evaluated: Path, data: Path) -> None:
    line = "evaluate --samples 5 --limit 20 --save --replace --device cpu"
    assert vae(line, "--model", evaluated, "--data", data).exit_code == 0
    kept = json.loads((evaluated / METRICS).read_text())
    assert [(each["samples"], each["images"]) for each in kept["evaluations"]] == [(5, 20)]
    assert kept["reference"]["images"] == 20
    assert "Means over 20 images" in (evaluated / "README.md").read_text()
    message = refusal(vae("evaluate --replace", "--model", evaluated, "--data", data))
    assert message == "--replace: expected together with --save"


def test_figures_are_not_saved_if_the_weights_have_changed_meanwhile(evaluated: Path, data: Path) -> None:
    figures = json.loads((evaluated / METRICS).read_text())["evaluations"][0]
    write_checkpoint(evaluated, DIGITS, build(DIGITS, 1).state_dict())
    before = contents(evaluated)
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS}: changed during the evaluation"):
        save_evaluation(evaluated, read_dataset(data).held_out, EvaluationRecord(**figures))
    assert contents(evaluated) == before


def test_an_evaluation_of_new_weights_removes_the_figures_of_the_old_ones(evaluated: Path, data: Path) -> None:
    write_checkpoint(evaluated, DIGITS, build(DIGITS, 1).state_dict())
    result = vae("evaluate --samples 3 --limit 7 --save --device cpu", "--model", evaluated, "--data", data)
    assert result.exit_code == 0, result.output
    kept = json.loads((evaluated / METRICS).read_text())
    assert [(each["samples"], each["images"]) for each in kept["evaluations"]] == [(3, 7)]
    assert kept["reference"]["images"] == 7
    assert kept["weights"] == read_checkpoint(evaluated).digest


@pytest.mark.parametrize(("content", "reason"), [("[1]", "expected an object, got list"), ("{", "not JSON")])
def test_an_invalid_metrics_file_is_reported_before_the_evaluation(evaluated: Path, data: Path, content, reason):
    (evaluated / METRICS).write_text(content)
    message = refusal(vae("evaluate --samples 1000000 --save --device cpu", "--model", evaluated, "--data", data))
    assert message.startswith(f"{evaluated / METRICS}: {reason}")
    assert (evaluated / METRICS).read_text() == content


def test_invalid_entries_of_metrics_are_reported_and_kept(evaluated: Path, data: Path) -> None:
    metrics = json.loads((evaluated / METRICS).read_text())
    damaged = {name: value for name, value in metrics["evaluations"][0].items() if name != "split"}
    write_json(evaluated / METRICS, metrics | {"evaluations": [damaged], "training": {"seconds": 3}, "notes": "own"})
    line = "evaluate --samples 3 --save --device cpu"
    result = vae(line, "--model", evaluated, "--data", data)
    assert result.exit_code == 0, result.output
    assert f"{evaluated / METRICS}: evaluations[0].split is missing; the entry is left out" in result.stderr
    kept = json.loads((evaluated / METRICS).read_text())
    assert (kept["notes"], kept["training"], kept["version"]) == ("own", {"seconds": 3}, 1)
    assert kept["evaluations"][0] == damaged
    assert [each["samples"] for each in kept["evaluations"]] == [2, 3]


def test_an_evaluation_without_save_changes_no_file(trained: Path, data: Path) -> None:
    before = {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()}
    assert vae("evaluate --samples 1 --limit 7 --device cpu", "--model", trained, "--data", data).exit_code == 0
    assert {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()} == before


def test_figures_are_written_although_they_cannot_be_printed(digits_model: Path, data: Path, tmp_path: Path) -> None:
    words = ["evaluate", "--samples", "1", "--limit", "7", "--threads", "1", "--device", "cpu"]
    where = ["--model", digits_model, "--data", data, "--json", tmp_path / "figures.json"]
    reader, writer = os.pipe()
    os.close(reader)
    subprocess.run([*VAE, *words, *where], check=False, stdout=writer, stderr=subprocess.DEVNULL)
    os.close(writer)
    assert json.loads((tmp_path / "figures.json").read_text())["images"] == 7


def test_figures_are_printed_although_they_cannot_be_written(digits_model: Path, data: Path, tmp_path: Path) -> None:
    line = "evaluate --samples 1 --limit 7 --device cpu"
    result = vae(line, "--model", digits_model, "--data", data, "--json", tmp_path / "nowhere" / "figures.json")
    assert result.exit_code == 2
    assert "log likelihood" in result.stdout


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--samples 0", "--samples: expected an integer from 1 to 1000000, got 0"),
        ("--binarize static", "--binarize: expected dynamic or none, got 'static'"),
        ("--precision half", "--precision: expected float32 or bfloat16, got 'half'"),
        ("--limit -1", "--limit: expected an integer from 0 to 1000000000, got -1"),
        ("--device cuda:99", "device: expected"),
    ],
)
def test_an_invalid_option_is_reported_in_one_line(digits_model: Path, data: Path, options, reason) -> None:
    assert reason in refusal(vae(f"evaluate {options}", "--model", digits_model, "--data", data))


def test_a_folder_without_a_model_is_reported_in_one_line(tmp_path: Path, data: Path) -> None:
    message = refusal(vae("evaluate", "--model", tmp_path, "--data", data))
    assert message == f"{tmp_path / 'config.json'}: No such file or directory"


def test_a_readme_that_is_not_a_model_card_is_kept(digits_model: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(digits_model, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("# My project\n")
    line = "evaluate --samples 1 --limit 5 --save --device cpu"
    for _ in range(2):
        result = vae(line, "--model", tmp_path / "model", "--data", data)
        assert result.exit_code == 0, result.output
        assert "README.md is not a generated model card and is kept" in result.stderr
        assert (tmp_path / "model" / "README.md").read_text() == "# My project\n"
    assert json.loads((tmp_path / "model" / METRICS).read_text())["evaluations"]
    (tmp_path / "model" / "README.md").unlink()
    for _ in range(2):
        assert "README.md" not in vae(line, "--model", tmp_path / "model", "--data", data).stderr
    assert (tmp_path / "model" / "README.md").read_text().startswith("# model: a Variational Autoencoder\n")
