"""Tests of the model card: figures with their standard error, no section without data, and text of persons is kept."""

import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from model.checkpoint import METRICS, read_checkpoint, write_checkpoint
from model.data.arrays import Dataset
from model.evaluation.input_encoding import compare_inputs
from model.evaluation.metrics import evaluate
from model.evaluation.model_card import END, LIMITS, write_card
from model.evaluation.ood import measure_elbo_percentiles
from model.evaluation.plots import write_plots
from model.files import write_json
from model.records import EpochRecord
from model.training.options import TrainingOptions
from tests.support.models import COLOUR, DIGITS, build

TABLE = {
    "split": "test split",
    "command": "vae evaluate --model digits --data digits.npz",
    "seconds": 90.0,
    "device": "cpu",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "digits", DIGITS, build(DIGITS).state_dict())
    return tmp_path / "digits"


@pytest.fixture
def training(digits: np.ndarray) -> dict[str, object]:
    return {
        "options": TrainingOptions(epochs=1, holdout=97).as_dict(),
        "data": Dataset("npz array", digits).describe(),
        "command": "vae train --data digits.npz --out digits",
        "torch": "2.6",
        "device": "cpu",
        "seconds": 90.0,
        "epochs": [asdict(EpochRecord(1, -20.5, -17.25, 3.25, -21.75, 1e-3, 1000.0, 90.0))],
    }


def card(folder: Path) -> str:
    write_card(folder)
    return (folder / "README.md").read_text()


def test_a_model_without_metrics_has_architecture_and_limits(folder: Path) -> None:
    text = card(folder)
    assert text.startswith("# digits: a Variational Autoencoder\n")
    assert "Not evaluated yet" in text
    assert "The training is not recorded" in text
    assert read_checkpoint(folder).digest in text
    assert "| hidden | 24 |" in text
    assert LIMITS in text


def test_the_card_has_the_figures_of_the_metrics(folder: Path, digits: np.ndarray, training: dict) -> None:
    table = evaluate(read_checkpoint(folder).vae, digits[:40], samples=6, seed=9)
    write_json(folder / METRICS, {"training": training, "evaluations": [asdict(table) | TABLE]})
    text = card(folder)
    assert f"K = 6 | {table.log_likelihood:.2f} ± {table.standard_error:.2f} nats |" in text
    assert f"| ELBO | {table.elbo:.2f} nats |" in text
    assert f"| active units | {table.active_units} of 4 |" in text
    assert "Means over 40 images of the test split, binarised once with seed 9." in text
    assert "Networks in float32; 90 seconds on cpu." in text
    assert TABLE["command"] in text


def test_only_evaluations_of_the_most_images_are_shown(folder: Path, digits: np.ndarray) -> None:
    vae = read_checkpoint(folder).vae
    tables = [asdict(evaluate(vae, digits[:count], k, binarize="none")) for count, k in ((9, 2), (40, 3), (5, 4))]
    write_json(folder / METRICS, {"evaluations": [table | TABLE for table in tables]})
    assert re.findall(r"K = (\d+)", card(folder)) == ["3"]


def test_the_card_is_written_from_the_usable_metrics(folder: Path, digits: np.ndarray, training: dict) -> None:
    table = asdict(evaluate(read_checkpoint(folder).vae, digits[:9], samples=2)) | TABLE
    inputs = {name: {"error": 0.5, "divergence": 2.0} for name in ("grey", "threshold", "draw", "other")}
    metrics = {
        "training": {name: value for name, value in training.items() if name != "torch"},
        "evaluations": [{name: value for name, value in table.items() if name != "split"}, table],
        "inputs": inputs | {"other": 3},
        "reference": {"elbo": []},
    }
    write_json(folder / METRICS, metrics)
    text = card(folder)
    assert "The training is not recorded" in text
    assert text.count("K = 2") == 1
    assert "| threshold | 0.5000 | 2.00 |" in text
    assert "Out-of-distribution detection" not in text


def test_the_card_has_the_command_and_data_of_the_training(folder: Path, training: dict) -> None:
    write_json(folder / METRICS, {"training": training})
    text = card(folder)
    assert "    vae train --data digits.npz --out digits\n" in text
    assert "trained on 1,700 images (npz array)" in text
    assert "was -20.50 nats, on held-out images -21.75; 90 seconds on cpu" in text
    assert str(training["data"]["digest"]) in text
    assert "the probability of white" in text


def test_the_figures_of_a_training_are_those_of_the_epoch_whose_weights_are_kept(folder: Path, training: dict) -> None:
    later = asdict(EpochRecord(2, -18.5, -15.0, 3.5, -23.25, 1e-3, 1000.0, 90.0))
    write_json(folder / METRICS, {"training": training | {"epochs": [*training["epochs"], later], "best_epoch": 1}})
    kept = "Epoch 1 of 2 had the best validation, and its weights are kept: the ELBO of the training batches was "
    assert f"{kept}-20.50 nats, on held-out images -21.75; 90 seconds on cpu" in card(folder)


def test_a_training_without_epochs_is_not_described(folder: Path, training: dict) -> None:
    write_json(folder / METRICS, {"training": training | {"epochs": []}})
    assert "The training is not recorded" in card(folder)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 seconds"), (119.0, "119 seconds"), (180.0, "3 minutes")])
def test_short_durations_are_in_seconds(folder: Path, digits: np.ndarray, seconds: float, text: str) -> None:
    table = evaluate(read_checkpoint(folder).vae, digits[:5], samples=1)
    write_json(folder / METRICS, {"evaluations": [asdict(table) | TABLE | {"seconds": seconds}]})
    assert f"Networks in float32; {text} on cpu." in card(folder)


def test_a_figure_without_standard_error_has_none(folder: Path, digits: np.ndarray) -> None:
    table = evaluate(read_checkpoint(folder).vae, digits[:1], samples=2, binarize="none")
    write_json(folder / METRICS, {"evaluations": [asdict(table) | TABLE]})
    text = card(folder)
    assert "±" not in text
    assert "binarised" not in text


def test_the_card_has_input_encodings_and_out_of_distribution_detection(
    folder: Path, digits: np.ndarray, training: dict
) -> None:
    assert not {"## Grey images", "## Out-of-distribution detection"} & set(card(folder).splitlines())
    vae = read_checkpoint(folder).vae
    reference, inputs = measure_elbo_percentiles(vae, digits[:50]), compare_inputs(vae, digits[:50])
    found = {"reference": reference.as_dict(), "inputs": asdict(inputs)}
    write_json(folder / METRICS, {"training": training} | found)
    text = card(folder)
    assert f"| letters | {reference.auroc['letters']:.3f} |" in text
    assert f"50 % below {reference.elbo[50]:.1f}" in text
    assert "over the 50 images of the data it was evaluated on: 5 % are below" in text
    assert f"| threshold | {inputs.threshold.error:.4f} | {inputs.threshold.divergence:.2f} |" in text


def test_published_results_are_shown_for_mnist_models_only(folder: Path, training: dict) -> None:
    for source, expected in (("npz array", False), ("MNIST", True)):
        write_json(folder / METRICS, {"training": training | {"data": training["data"] | {"source": source}}})
        assert ("81.08 ± 0.08 | 128" in card(folder)) == expected


def test_every_image_of_the_card_exists(folder: Path, digits: np.ndarray) -> None:
    assert "![" not in card(folder)
    write_plots(folder / "pictures", read_checkpoint(folder).vae, digits)
    shown = re.findall(r"!\[\w+\]\((.+?)\)", card(folder))
    assert len(shown) == 3
    assert all((folder / path).exists() for path in shown)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_text_below_the_generated_one_is_kept_of_any_bytes(folder: Path, digits: np.ndarray, line_end: str) -> None:
    own = "\n## Größe\n\nKlein.\n".replace("\n", line_end).encode("latin-1")
    (folder / "README.md").write_bytes(card(folder).replace("\n", line_end).encode() + own)
    write_json(
        folder / METRICS,
        {"evaluations": [asdict(evaluate(read_checkpoint(folder).vae, digits[:9], samples=2)) | TABLE]},
    )
    for _ in range(2):
        write_card(folder)
        written = (folder / "README.md").read_bytes()
        assert b"K = 2" in written
        assert written.count(END.encode()) == 1
        assert written.endswith(END.encode() + line_end.encode() + own)


def test_equal_folders_have_equal_cards(folder: Path, training: dict) -> None:
    write_json(folder / METRICS, {"training": training})
    assert card(folder) == card(folder)


def test_the_card_says_what_a_pixel_is_and_how_training_images_were_changed(folder: Path, training: dict) -> None:
    assert "discretisation" not in card(folder)
    write_checkpoint(folder, COLOUR, build(COLOUR).state_dict())
    options = TrainingOptions(augment="flip,crop").as_dict()
    write_json(folder / METRICS, {"training": training | {"options": options}})
    text = card(folder)
    assert "the mean of its logistic distribution before the discretisation to 256 levels" in text
    assert "Training images were changed at random: flip,crop." in text
