"""Tests that damaged snapshots are refused with one line that names the tensor or field."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from model.config import VAEConfig
from model.files import CheckpointError
from model.training.options import TrainingOptions
from model.training.resume import SNAPSHOT, resume_training, write_snapshot
from model.training.trainer import Training
from tests.support.cli_runner import SMALL, refusal, vae

CONFIG = VAEConfig(image_shape=(1, 8, 8), latent_shape=(4,), hidden=(8,))
OPTIONS = TrainingOptions(epochs=2, batch_size=64, warmup=5, holdout=20, seed=3)
WEIGHT = "average.encoder.network.1.weight"


def training(digits: np.ndarray) -> Training:
    return Training(CONFIG, digits[:200], OPTIONS)


@pytest.fixture
def snapshot(tmp_path: Path, digits: np.ndarray) -> Path:
    begun = training(digits)
    next(begun.epochs())
    write_snapshot(tmp_path, begun)
    return tmp_path / SNAPSHOT


def edit(path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], object]) -> None:
    """Rewrite a snapshot after a change to its JSON and its tensors."""
    with safe_open(path, "pt") as file:
        content = json.loads(file.metadata()["training"])
    tensors = load_file(path)
    change(content, tensors)
    save_file(tensors, path, {"training": json.dumps(content)})


def reason(path: Path, digits: np.ndarray) -> str:
    with pytest.raises(CheckpointError) as caught:
        resume_training(path.parent, training(digits))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_every_missing_tensor_is_named(snapshot: Path, digits: np.ndarray) -> None:
    original = snapshot.read_bytes()
    for name in load_file(snapshot):
        edit(snapshot, lambda _, tensors, name=name: tensors.pop(name))
        assert reason(snapshot, digits).startswith(f"{name}: expected "), name
        assert reason(snapshot, digits).endswith("got none"), name
        snapshot.write_bytes(original)


@pytest.mark.parametrize("field", ["identity", "step", "records"])
def test_every_missing_field_is_named(snapshot: Path, digits: np.ndarray, field: str) -> None:
    edit(snapshot, lambda content, _: content.pop(field))
    assert reason(snapshot, digits) == f"training.{field} is missing"


def test_a_missing_field_of_the_identity_is_named(snapshot: Path, digits: np.ndarray) -> None:
    edit(snapshot, lambda content, _: content["identity"].pop("hidden"))
    assert reason(snapshot, digits) == "training.identity.hidden is missing"


@pytest.mark.parametrize(
    "field", ["epoch", "elbo", "reconstruction", "kl", "validation", "learning_rate", "images_per_second", "seconds"]
)
def test_every_missing_field_of_an_epoch_is_named(snapshot: Path, digits: np.ndarray, field: str) -> None:
    edit(snapshot, lambda content, _: content["records"][0].pop(field))
    assert reason(snapshot, digits) == f"training.records[0].{field} is missing"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c, _: c.update(identity=[]), "training.identity: expected an object, got list"),
        (lambda c, _: c.update(step="9"), "training.step: expected an integer, got str"),
        (lambda c, _: c.update(step=1.5), "training.step: expected an integer, got float"),
        (lambda c, _: c.update(step=-3), "training.step: expected 3 after 1 epochs of 3 steps, got -3"),
        (lambda c, _: c.update(step=10**30), "training.step: expected 3 after 1 epochs of 3 steps, got 10000"),
        (lambda c, _: c.update(records={}), "training.records: expected a list, got dict"),
        (lambda c, _: c.update(records=[None]), "training.records[0]: expected an object, got NoneType"),
        (lambda c, _: c["records"][0].update(loss=1), "training.records[0].loss is unknown"),
        (lambda c, _: c["records"][0].update(elbo=None), "training.records[0].elbo: expected a number, got NoneType"),
        (lambda c, _: c["records"][0].update(epoch=2), "training.records[0].epoch: expected 1, got 2"),
        (lambda c, _: c["records"][0].update(kl=float("nan")), "not a complete training snapshot: NaN"),
        (lambda _, t: t.update(generator=torch.zeros(3)), "generator: expected uint8 [5056], got float32 [3]"),
        (lambda _, t: t.update(generator=torch.zeros(5056, dtype=torch.uint8)), "generator: not a state"),
        (lambda _, t: t.update({WEIGHT: torch.zeros(9, 9)}), f"{WEIGHT}: expected float32 [8, 64], got float32 [9, 9]"),
        (
            lambda _, t: t.update({WEIGHT: torch.zeros(8, 64, dtype=torch.int8)}),
            f"{WEIGHT}: expected float32 [8, 64], got int8 [8, 64]",
        ),
        (lambda _, t: t.update({WEIGHT: torch.full((8, 64), torch.nan)}), f"{WEIGHT}: expected finite numbers"),
        (lambda _, t: t.update(extra=torch.zeros(1)), "extra: not a tensor of this training"),
    ],
)
def test_a_tensor_or_field_of_another_type_is_named(snapshot: Path, digits: np.ndarray, change, expected: str) -> None:
    edit(snapshot, change)
    assert reason(snapshot, digits).startswith(expected)


@pytest.mark.parametrize("metadata", [None, {"other": "{}"}, {"training": "[]"}, {"training": "3"}, {"training": "{"}])
def test_invalid_metadata_is_refused(snapshot: Path, digits: np.ndarray, metadata) -> None:
    save_file(load_file(snapshot), snapshot, metadata)
    assert reason(snapshot, digits)


def test_a_named_pipe_in_place_of_a_snapshot_is_refused(snapshot: Path, digits: np.ndarray) -> None:
    snapshot.unlink()
    os.mkfifo(snapshot)
    with pytest.raises(CheckpointError, match=f"{SNAPSHOT}: expected a regular file"):
        resume_training(snapshot.parent, training(digits))


def test_a_refused_snapshot_does_not_change_the_training(snapshot: Path, digits: np.ndarray) -> None:
    edit(snapshot, lambda _, tensors: tensors.pop(max(tensors)))
    begun, untouched = training(digits), training(digits)
    with pytest.raises(CheckpointError):
        resume_training(snapshot.parent, begun)
    assert (begun.step, begun.epoch) == (0, 0)
    for got, expected in zip(begun.vae.parameters(), untouched.vae.parameters(), strict=True):
        assert got.equal(expected)


def test_the_command_refuses_an_incomplete_snapshot_in_one_line(trained: Path, data: Path) -> None:
    edit(trained / SNAPSHOT, lambda _, tensors: tensors.pop("generator"))
    message = refusal(vae(f"train {SMALL} --epochs 1 --resume", "--data", data, "--out", trained))
    assert message == f"{trained / SNAPSHOT}: generator: expected uint8 [5056], got none"
