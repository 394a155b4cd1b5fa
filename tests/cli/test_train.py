"""`vae train`: the folder holds a complete model; user errors give one line and exit code 2."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app.cli.train import STARTED_MARKER
from model.checkpoint import METRICS, read_checkpoint
from model.files import CONFIG, WEIGHTS
from model.training.resume import SNAPSHOT
from tests.support.cli_runner import SMALL, VAE, refusal, vae


def test_training_writes_a_complete_model_and_prints_one_line_per_epoch(data: Path, tmp_path: Path) -> None:
    line = f"train {SMALL} --epochs 2 --holdout 50 --precision bfloat16 --samples 2"
    result = vae(line, "--data", data, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert [text.split()[:3] for text in result.stdout.splitlines()] == [["epoch", f"{n}/2", "elbo"] for n in (1, 2)]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"README.md", "config.json", METRICS, WEIGHTS, "pictures"}
    checkpoint = read_checkpoint(tmp_path / "run")
    assert (checkpoint.vae.config.channels, checkpoint.vae.config.blocks) == ((8,), (1,))
    training = checkpoint.metrics.entries["training"]
    assert [epoch["epoch"] for epoch in training["epochs"]] == [1, 2]
    assert training["options"]["precision"] == "bfloat16"
    assert training["data"]["train"] == 600
    assert "evaluations" not in checkpoint.metrics.entries


def test_a_killed_run_is_resumed_to_the_same_bytes(data: Path, tmp_path: Path) -> None:
    line = f"train {SMALL} --epochs 4 --ema 0.9"
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert vae(line, "--data", data, "--out", straight).exit_code == 0
    command = [*VAE, *line.split(), "--data", str(data), "--out", str(killed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("epoch 1/"):
            pass
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert (killed / WEIGHTS).read_bytes() != (straight / WEIGHTS).read_bytes()
    begun = json.loads((killed / METRICS).read_text())["training"]["command"]
    resumed = vae("train --resume --threads 1", "--data", data, "--out", killed)
    assert resumed.exit_code == 0, resumed.output
    assert 0 < resumed.stdout.count("epoch ") <= 3
    assert (killed / WEIGHTS).read_bytes() == (straight / WEIGHTS).read_bytes()
    assert [epoch["elbo"] for epoch in _epochs(killed)] == [epoch["elbo"] for epoch in _epochs(straight)]
    assert json.loads((killed / METRICS).read_text())["training"]["command"] == begun


def test_resume_without_a_training_starts_one_and_reports_it(data: Path, tmp_path: Path) -> None:
    result = vae(f"train {SMALL} --epochs 1 --resume", "--data", data, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith(f"vae: {tmp_path / 'run'} holds no training to resume: starting a new one\n")


def test_a_training_ends_with_the_next_commands(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    line = f"train {SMALL} --epochs 1"
    ends = [vae(line, *words, "--data", data, "--out", run).stderr for words in ([], ["--resume"])]
    evaluate, serve = f"vae evaluate --model {run} --data {data} --save", f"vae serve --model {run}"
    where = f"vae: the model is in {run}, pictures of it in {run}/pictures\n"
    after = f"{where}vae: next: {evaluate}\nvae: then: {serve}\n"
    held_out = "(60 for validation, 100 for tests), 1 epochs of 11 steps on cpu"
    before = f"vae: training on 540 images of shape 1,8,8 {held_out}, into {run}\nvae: expected time: "
    assert re.search(re.escape(before) + r"[\d.]+ (seconds|minutes|hours)\n" + re.escape(after) + "$", ends[0])
    assert ends[1] == f"vae: all 1 epochs are done\n{after}"


def test_an_interrupted_training_prints_how_to_continue(data: Path, tmp_path: Path) -> None:
    # the parent process may ignore the signal
    handle_interrupt = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    words = [sys.executable, "-c", f"{handle_interrupt}; from app.cli import main; main()", "train", *SMALL.split()]
    line = [*words, "--epochs", "1000", "--data", str(data), "--out", str(tmp_path / "run")]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        command = f"vae train --resume --data {data} --out {tmp_path / 'run'}"
        assert f"vae: stopped; to continue: {command}\n" in process.stderr.read()
    assert process.returncode == 130


def test_a_finished_run_is_not_overwritten_and_not_changed_by_resuming(trained: Path, data: Path) -> None:
    before = (trained / WEIGHTS).read_bytes()
    again = vae(f"train {SMALL} --epochs 1", "--data", data, "--out", trained)
    assert refusal(again) == f"--out: {trained} already holds a training; use --resume to continue it"
    other = vae(f"train {SMALL} --epochs 1 --resume --clip 7", "--data", data, "--out", trained)
    assert refusal(other) == "--clip: expected 100.0, as in the snapshot, got 7.0"
    assert vae(f"train {SMALL} --epochs 1 --resume", "--data", data, "--out", trained).exit_code == 0
    assert (trained / WEIGHTS).read_bytes() == before


@pytest.mark.parametrize("options", ["", SMALL, f"{SMALL} --image-shape 1,8,8 --scale 0.1 --binarize dynamic"])
def test_a_training_is_resumed_with_its_own_options(trained: Path, data: Path, options: str) -> None:
    before = (trained / METRICS).read_bytes()
    result = vae(f"train --resume {options}", "--data", data, "--out", trained)
    assert result.exit_code == 0, result.output
    assert "vae: all 1 epochs are done\n" in result.stderr
    assert (trained / METRICS).read_bytes() == before


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--beta 2", "--beta: expected 1.0, as in the snapshot, got 2.0"),
        ("--latent 4", "--latent: expected 3, as in the snapshot, got 4"),
        ("--channels 8,8", "--channels: expected 8, as in the snapshot, got 8,8"),
        ("--likelihood logistic", "--likelihood: expected 'bernoulli', as in the snapshot, got 'logistic'"),
        ("--binarize none", "--binarize: expected 'dynamic', as in the snapshot, got 'none'"),
        ("--objective vae", "--objective: expected elbo, iwae or dreg, got 'vae'"),
        ("--recipe mnist-cpu", "--latent: expected 3, as in the snapshot, got 32"),
    ],
)
def test_an_option_that_contradicts_the_resumed_training_is_reported(
    trained: Path, data: Path, options: str, reason: str
) -> None:
    result = vae(f"train --resume {options}", "--data", data, "--out", trained)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == f"vae: {reason}"


def test_a_finished_training_is_lengthened_by_resuming(trained: Path, data: Path) -> None:
    result = vae("train --resume --epochs 3", "--data", data, "--out", trained)
    assert result.exit_code == 0, result.output
    assert [line.split()[1] for line in result.stdout.splitlines()] == ["2/3", "3/3"]
    assert not (trained / SNAPSHOT).exists()


def test_a_complete_training_without_state_is_left_as_it_is(data: Path, tmp_path: Path) -> None:
    line = f"train {SMALL} --epochs 1"
    run = tmp_path / "run"
    assert vae(line, "--data", data, "--out", run).exit_code == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for options in ("", line.removeprefix("train")):
        assert "vae: all 1 epochs are done\n" in vae(f"train --resume {options}", "--data", data, "--out", run).stderr
    message = refusal(vae("train --resume --epochs 3", "--data", data, "--out", run))
    assert message.startswith("--epochs: expected 1, as the complete training had, got 3; its state was removed")
    assert refusal(vae(line, "--data", data, "--out", run)) == f"--out: {run} already holds a model"
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_training_from_a_model_is_resumed_without_it(trained: Path, data: Path, tmp_path: Path) -> None:
    last = ["--data", data, "--out", tmp_path / "last"]
    assert vae("train --epochs 1 --keep-state --device cpu --threads 1", "--start", trained, *last).exit_code == 0
    for start in ([], ["--start", trained]):
        result = vae("train --resume --keep-state", *start, *last)
        assert result.exit_code == 0, result.output
    message = refusal(vae("train --resume", "--start", tmp_path / "last", *last))
    assert message.startswith("--start: expected ")


def test_an_existing_model_is_not_overwritten(digits_model: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(digits_model, tmp_path / "own")
    for name in (CONFIG, WEIGHTS):
        line = ["--start", digits_model, "--data", data, "--out", tmp_path / "own"]
        for resume in ([], ["--resume"]):
            message = refusal(vae("train --epochs 1 --device cpu", *line, *resume))
            assert message == f"--out: {tmp_path / 'own'} already holds a model"
        (tmp_path / "own" / name).unlink()


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_an_unwritable_folder_is_reported_before_the_data_are_read(data: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    data.write_bytes(b"")
    message = refusal(vae(f"train {SMALL} --epochs 1", "--data", data, "--out", tmp_path / name))
    assert message == f"{tmp_path / name}: Not a directory"


def test_a_run_killed_while_it_saved_its_first_epoch_starts_again(trained: Path, data: Path) -> None:
    (trained / SNAPSHOT).unlink()
    (trained / STARTED_MARKER).touch()
    before = (trained / WEIGHTS).read_bytes()
    result = vae(f"train {SMALL} --epochs 1 --resume", "--data", data, "--out", trained)
    assert result.exit_code == 0, result.output
    assert (trained / WEIGHTS).read_bytes() == before
    assert not (trained / STARTED_MARKER).exists()


def test_a_budget_of_time_determines_the_epochs(data: Path, tmp_path: Path) -> None:
    line = f"train {SMALL.replace('--kl-warmup 1 ', '')} --minutes 0.01"
    result = vae(line, "--data", data, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert ": 0.01 minutes with " in result.stderr
    assert (
        len(_epochs(tmp_path / "run"))
        == json.loads((tmp_path / "run" / METRICS).read_text())["training"]["options"]["epochs"]
    )


def test_a_budget_that_is_shorter_than_an_epoch_is_announced(data: Path, tmp_path: Path) -> None:
    line = f"train {SMALL.replace('--kl-warmup 1 ', '')} --minutes 0.00001"
    result = vae(line, "--data", data, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert re.search(r"--epochs 1: 1e-05 minutes with .* s for each epoch; even one takes longer", result.stderr)
    assert len(_epochs(tmp_path / "run")) == 1


@pytest.mark.parametrize(("patience", "is_possible"), [(1, True), (2, False), (20, False)])
def test_an_early_end_is_announced_only_where_it_can_happen(data: Path, tmp_path: Path, patience, is_possible) -> None:
    line = f"train {SMALL} --epochs 3 --batch-size 300 --warmup 0 --patience {patience}"
    result = vae(line, "--data", data, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    expected = f"less if {patience} epochs do not improve it"
    assert (expected in result.stderr) == is_possible


def test_the_best_epoch_is_kept(tmp_path: Path, digits: np.ndarray) -> None:
    """The images for validation are negatives: the more the model learns, the less it explains them."""
    for name, images in (("train", digits[:60, 0]), ("val", 255 - digits[60:80, 0])):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / "data" / name / f"{number}.png")
    line = f"train {SMALL.replace('--holdout 50', '')} --epochs 6 --ema 0 --test-share 0 --learning-rate 0.02"
    result = vae(line, "--data", tmp_path / "data", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    best = max(_epochs(tmp_path / "run"), key=lambda epoch: epoch["validation"])["epoch"]
    recorded = read_checkpoint(tmp_path / "run").metrics.training
    assert recorded.best_epoch == best < 6
    assert f"vae: epoch {best} had the best validation; its weights are kept\n" in result.stderr


def test_a_last_phase_starts_from_a_trained_model_and_its_architecture(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    line = "train --epochs 1 --learning-rate 1e-5 --warmup 0 --kl-warmup 0 --ema 0 --objective dreg --samples 3"
    result = vae(line, "--device", "cpu", "--start", trained, "--data", data, "--out", tmp_path / "last")
    assert result.exit_code == 0, result.output
    before, after = (read_checkpoint(folder).vae for folder in (trained, tmp_path / "last"))
    assert after.config == before.config
    for old, new in zip(before.parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(old, new, atol=1e-3, rtol=0)
        assert not old.equal(new)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--epochs 0", "--epochs: expected an integer from 1 to 1000000, got 0"),
        ("--latent x", "--latent: expected integers like 4,7,7, got 'x'"),
        ("--latent 4,2,2,2", "--latent: expected 1 or 3 integers"),
        ("--channels 8,8 --blocks 1", "--blocks: expected as many as channels, got (1,)"),
        ("--stride 3", "--stride: expected 1 or 2, got 3"),
        ("--likelihood poisson", "--likelihood: expected one of bernoulli"),
        ("--schedule linear", "--schedule: expected cosine or constant, got 'linear'"),
        ("--image-shape 1,8", "--image-shape: expected C,H,W with C of 1 or 3, got '1,8'"),
        ("--image-shape 1,9,9", "expected images of shape (1, 9, 9), got (1, 8, 8)"),
        ("--objective vae", "--objective: expected elbo, iwae or dreg, got 'vae'"),
        ("--beta 0", "--beta: expected a weight above 0, got 0.0"),
        ("--augment turn", "--augment: expected flip, crop or flip,crop, got 'turn'"),
        ("--minutes 1", "--minutes: expected in place of epochs, got 1 beside epochs 1"),
        *(
            (f"--minutes={value}", f"--minutes: expected a number above 0, at most 1e+06, got {value}")
            for value in ("0", "-1", "nan", "inf")
        ),
        ("--warmup 9999", "--warmup: expected at most the 38 steps of the training, got 9999"),
        ("--kl-warmup 1.5", "--kl-warmup: expected at most the 1 epochs of the training, got 1.5"),
        ("--patience 3 --holdout 0", "--patience: expected images for validation; holdout is 0"),
        ("--holdout 600", "--holdout: expected fewer than the 600 training images, got 600"),
        ("--device tpu", "--device: expected auto, cpu, cuda or cuda:N, got 'tpu'"),
        ("--threads -1", "--threads: expected an integer from 0 to 1024, got -1"),
    ],
)
def test_an_invalid_option_is_reported_in_one_line(data: Path, tmp_path: Path, options: str, reason: str) -> None:
    assert reason in refusal(vae(f"train --epochs 1 {options}", "--data", data, "--out", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("train --epochs many", "--epochs: expected an integer, got 'many'"),
        ("train --epochs 2.5", "--epochs: expected an integer, got '2.5'"),
        ("train --learning-rate=", "--learning-rate: expected a number, got ''"),
        ("train --kl-warmup 1,5", "--kl-warmup: expected a number, got '1,5'"),
        ("evaluate --limit all", "--limit: expected an integer, got 'all'"),
    ],
)
def test_a_text_in_place_of_a_number_is_reported_with_its_option(line: str, reason: str) -> None:
    command = line.split(maxsplit=1)[0]
    assert refusal(vae(line)) == f"{reason}; vae {command} -h prints the options"


def test_unusable_data_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.npz").write_bytes(b"PK nothing")
    for name, reason in (
        ("empty", "expected MNIST files or image files"),
        ("broken.npz", "not a complete .npy or .npz array"),
        ("nowhere", "no such file or folder"),
    ):
        message = refusal(vae("train", "--data", tmp_path / name, "--out", tmp_path / "run"))
        assert message.startswith(str(tmp_path / name))
        assert reason in message


def test_help_does_not_import_torch() -> None:
    help_alone = "from app.cli import cli; cli(['train', '--help'], standalone_mode=False)"
    code = f"import sys; {help_alone}; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--learning-rate" in answer
    assert answer.splitlines()[-1] == "False"


def _epochs(folder: Path) -> list[dict[str, float]]:
    epochs: list[dict[str, float]] = json.loads((folder / METRICS).read_text())["training"]["epochs"]
    return epochs


@pytest.mark.parametrize("name", ["README.md", METRICS, "pictures/samples.png", CONFIG])
def test_files_that_a_training_would_overwrite_are_reported_before_it(data: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "project" / name
    path.parent.mkdir(parents=True)
    path.write_text("written by hand")
    for resume in ([], ["--resume"]):
        message = refusal(vae(f"train {SMALL} --epochs 1", *resume, "--data", data, "--out", tmp_path / "project"))
        assert message.startswith(f"--out: {tmp_path / 'project'} already holds ")
    assert path.read_text() == "written by hand"
    assert [file for file in (tmp_path / "project").rglob("*") if file.is_file()] == [path]
