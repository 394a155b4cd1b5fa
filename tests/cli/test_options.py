"""Options of training and evaluation, and the architecture of the model from which a training starts."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from app.cli.options import Hardware
from model.checkpoint import METRICS
from tests.support.cli_runner import refusal, vae
from tests.support.models import DIGITS, write

QUICK = "--epochs 1 --batch-size 50 --threads 1 --device cpu"


@pytest.fixture
def data(tmp_path: Path, digits: np.ndarray) -> Path:
    np.save(tmp_path / "digits.npy", digits[:100, 0])
    return tmp_path / "digits.npy"


def kept(folder: Path) -> dict[str, object]:
    options: dict[str, object] = json.loads((folder / METRICS).read_text())["training"]["options"]
    return options


@pytest.mark.parametrize(
    ("likelihood", "given", "binarize"),
    [("bernoulli", "", "dynamic"), ("gaussian", "", "none"), ("gaussian", "--binarize dynamic", "dynamic")],
)
def test_the_default_binarization_follows_the_likelihood(data, tmp_path, likelihood, given, binarize):
    start = write(tmp_path / "start", replace(DIGITS, likelihood=likelihood))
    result = vae(f"train {QUICK} {given}", "--start", start, "--data", data, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert kept(tmp_path / "run")["binarize"] == binarize


ARCHITECTURE = "--latent 4 --stride 2 --channels 8,8 --blocks 1,0 --hidden 24 --image-shape 1,8,8 --scale 0.1"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("--latent 5", "--latent: expected 4, as --start has it, got 5"),
        ("--stride 1", "--stride: expected 2, as --start has it, got 1"),
        ("--channels 8", "--channels: expected 8,8, as --start has it, got 8"),
        ("--blocks 1,1", "--blocks: expected 1,0, as --start has it, got 1,1"),
        ("--hidden=", "--hidden: expected 24, as --start has it, got none"),
        ("--image-shape 3,8,8", "--image-shape: expected 1,8,8, as --start has it, got 3,8,8"),
        ("--likelihood logistic", "--likelihood: expected 'bernoulli', as --start has it, got 'logistic'"),
        ("--scale 0.2", "--scale: expected 0.1, as --start has it, got 0.2"),
        ("--recipe mnist-cpu", "--latent: expected 4, as --start has it, got 32"),
    ],
)
def test_an_architecture_that_contradicts_the_trained_model_is_rejected(digits_model, data, tmp_path, given, reason):
    result = vae(f"train {QUICK} {given}", "--start", digits_model, "--data", data, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == f"vae: {reason}"
    assert not (tmp_path / "run").exists()


def test_the_architecture_of_the_trained_model_may_be_given(digits_model, data, tmp_path):
    result = vae(f"train {QUICK} {ARCHITECTURE}", "--start", digits_model, "--data", data, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("started", "given", "epochs"), [(False, "", 0.1), (True, "", 0.0), (True, "--kl-warmup 1", 1.0)]
)
def test_the_kl_weight_of_a_trained_model_is_1_by_default(digits_model, data, tmp_path, started, given, epochs):
    start = ["--start", digits_model] if started else []
    result = vae(f"train {QUICK} {given}", *start, "--data", data, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert kept(tmp_path / "run")["kl_warmup"] == epochs


HUGE = 10**30


@pytest.mark.parametrize(
    ("command", "option", "most"),
    [
        ("train", "epochs", 10**6),
        ("train", "batch_size", 10**6),
        ("train", "warmup", 10**9),
        ("train", "samples", 10**4),
        ("train", "holdout", 10**9),
        ("train", "threads", 1024),
        ("evaluate", "samples", 10**6),
        ("evaluate", "limit", 10**9),
        ("evaluate", "seed", 2**63 - 1),
        ("evaluate", "threads", 1024),
    ],
)
def test_a_number_out_of_range_is_reported_with_its_option(digits_model, data, tmp_path, command, option, most):
    where = ["--out", tmp_path / "run"] if command == "train" else ["--model", digits_model]
    for value in (HUGE, most + 1):
        line = f"{command} --{option.replace('_', '-')} {value} --device cpu"
        message = refusal(vae(line, *where, "--data", data))
        assert message.startswith(f"--{option.replace('_', '-')}: expected ")
        assert message.endswith(f" to {most}, got {value}")


def test_training_and_evaluation_compute_in_full_float32(device):
    torch.backends.cudnn.allow_tf32 = True  # as torch has it
    place = Hardware(device, threads=0).use()
    assert not torch.backends.cudnn.allow_tf32
    convolution, x = torch.nn.Conv2d(64, 64, 3).to(place), torch.randn(8, 64, 16, 16, device=place)
    torch.testing.assert_close(convolution(x).double(), deepcopy(convolution).double()(x.double()), atol=1e-5, rtol=0)
