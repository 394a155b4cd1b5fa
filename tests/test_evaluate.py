"""`vae evaluate` as it is called: figures that are shown, written and kept, or one line and exit code 2."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from command import SMALL, VAE, refusal, vae

from model.checkpoint import METRICS, read_checkpoint


def test_an_evaluation_is_shown_written_and_kept(trained: Path, data: Path, tmp_path: Path) -> None:
    line = "evaluate --samples 3 --seed 5 --save --device cpu"
    result = vae(line, "--model", trained, "--data", data, "--json", tmp_path / "figures.json")
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    kept = json.loads((trained / METRICS).read_text())
    assert kept["evaluations"] == [figures]
    assert kept["inputs"].keys() == {"grey", "threshold", "draw"}
    assert read_checkpoint(trained).reference.areas.keys() >= {"noise", "letters"}
    assert (figures["images"], figures["samples"], figures["seed"], figures["split"]) == (100, 3, 5, "test split")
    assert figures["binarize"] == "dynamic"
    assert figures["elbo"] <= figures["log_likelihood"]
    assert f"{figures['log_likelihood']:.4f}" in result.stdout
    assert f"{figures['log_likelihood']:.2f} ±" in (trained / "README.md").read_text()


def test_images_that_were_trained_on_are_not_called_held_out(tmp_path: Path, digits: np.ndarray) -> None:
    np.save(tmp_path / "digits.npy", digits[:50, 0])
    paths = ("--data", tmp_path / "digits.npy")
    assert vae(f"train {SMALL} --epochs 1", *paths, "--out", tmp_path / "run").exit_code == 0
    assert vae("evaluate --samples 1 --save --device cpu", *paths, "--model", tmp_path / "run").exit_code == 0
    card = (tmp_path / "run" / "README.md").read_text()
    assert "Means over 50 images of the training split" in card
    assert "5 % of the images of the training split are below" in card
    assert "held-out" not in card.lower()


def test_evaluations_by_other_numbers_of_draws_are_kept_side_by_side(trained: Path, data: Path) -> None:
    for samples in (2, 5, 2):
        line = f"evaluate --samples {samples} --limit 9 --save --device cpu"
        assert vae(line, "--model", trained, "--data", data).exit_code == 0
    kept = json.loads((trained / METRICS).read_text())["evaluations"]
    assert [figures["samples"] for figures in kept if figures["images"] == 9] == [2, 5]
    assert [f"K = {samples} |" in (trained / "README.md").read_text() for samples in (2, 5)] == [True, True]


def test_an_evaluation_that_is_not_kept_changes_nothing(trained: Path, data: Path) -> None:
    before = {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()}
    assert vae("evaluate --samples 1 --limit 7 --device cpu", "--model", trained, "--data", data).exit_code == 0
    assert {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()} == before


def test_figures_are_written_though_nobody_can_be_shown_them(digits_model: Path, data: Path, tmp_path: Path) -> None:
    words = ["evaluate", "--samples", "1", "--limit", "7", "--threads", "1", "--device", "cpu"]
    where = ["--model", digits_model, "--data", data, "--json", tmp_path / "figures.json"]
    reader, writer = os.pipe()
    os.close(reader)
    subprocess.run([*VAE, *words, *where], check=False, stdout=writer, stderr=subprocess.DEVNULL)
    os.close(writer)
    assert json.loads((tmp_path / "figures.json").read_text())["images"] == 7


def test_figures_are_shown_though_they_cannot_be_written(digits_model: Path, data: Path, tmp_path: Path) -> None:
    line = "evaluate --samples 1 --limit 7 --device cpu"
    result = vae(line, "--model", digits_model, "--data", data, "--json", tmp_path / "nowhere" / "figures.json")
    assert result.exit_code == 2
    assert "log likelihood" in result.stdout


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--samples 0", "samples: expected an integer from 1 to 1000000, got 0"),
        ("--binarize static", "binarize: expected dynamic or none, got 'static'"),
        ("--precision half", "precision: expected float32 or bfloat16, got 'half'"),
        ("--limit -1", "limit: expected an integer from 0 to 1000000000, got -1"),
        ("--device cuda:99", "device: expected"),
    ],
)
def test_an_evaluation_that_cannot_be_made_is_told_in_one_line(digits_model: Path, data: Path, options, reason) -> None:
    assert reason in refusal(vae(f"evaluate {options}", "--model", digits_model, "--data", data))


def test_a_folder_without_a_model_is_told_in_one_line(tmp_path: Path, data: Path) -> None:
    told = refusal(vae("evaluate", "--model", tmp_path, "--data", data))
    assert told == f"{tmp_path / 'config.json'}: No such file or directory"
