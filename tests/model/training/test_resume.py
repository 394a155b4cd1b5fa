"""Tests of resuming: the same bits as an uninterrupted training, and errors for other options or data."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from model.checkpoint import Checkpoint
from model.config import VAEConfig
from model.errors import OptionsError
from model.files import CheckpointError
from model.training.options import TrainingOptions
from model.training.resume import (
    SNAPSHOT,
    RecordedTraining,
    read_recorded_training,
    resume_training,
    write_snapshot,
)
from model.training.trainer import Training
from tests.support.models import build

MLP = VAEConfig(image_shape=(1, 8, 8), latent_shape=(4,), hidden=(32,))
CONV = VAEConfig(image_shape=(1, 8, 8), latent_shape=(4,), stride=2, channels=(8, 8), blocks=(1, 0), hidden=(16,))
ABSENT = "absent"
OPTIONS = TrainingOptions(epochs=4, batch_size=64, warmup=5, kl_warmup=3.0, holdout=20, seed=3)


def run(training: Training, epochs: int) -> None:
    for _, _ in zip(range(epochs), training.epochs(), strict=False):
        pass


@pytest.fixture
def half_way(tmp_path: Path, digits: np.ndarray) -> Path:
    training = Training(MLP, digits[:200], OPTIONS)
    run(training, 2)
    write_snapshot(tmp_path, training)
    return tmp_path


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (MLP, OPTIONS),
        (CONV, replace(OPTIONS, precision="bfloat16", samples=2)),
        (CONV, replace(OPTIONS, clip=0.0)),
        (CONV, replace(OPTIONS, weight_norm=True)),
    ],
)
def test_a_resumed_training_has_the_bits_of_an_unbroken_one(tmp_path: Path, digits, config, options, device) -> None:
    straight, broken_off = (Training(config, digits[:200], options, device) for _ in range(2))
    run(straight, 4)
    run(broken_off, 2)
    write_snapshot(tmp_path, broken_off)
    resumed = Training(config, digits[:200], options, device)
    resume_training(tmp_path, resumed)
    assert resumed.epoch == 2
    run(resumed, 4)
    for name in ("vae", "average"):
        ends = [getattr(training, name).state_dict() for training in (straight, resumed)]
        assert all(ends[0][key].equal(ends[1][key]) for key in ends[0])
    records = [
        [asdict(record) | {"seconds": 0, "images_per_second": 0} for record in t.records] for t in (straight, resumed)
    ]
    assert records[0] == records[1]


def test_a_finished_training_has_no_epochs_left(half_way: Path, digits: np.ndarray) -> None:
    training = Training(MLP, digits[:200], OPTIONS)
    resume_training(half_way, training)
    run(training, 2)
    write_snapshot(half_way, training)
    again = Training(MLP, digits[:200], OPTIONS)
    resume_training(half_way, again)
    assert list(again.epochs()) == []


def test_a_finished_training_can_be_lengthened(half_way: Path, digits: np.ndarray) -> None:
    longer = Training(MLP, digits[:200], replace(OPTIONS, epochs=6))
    resume_training(half_way, longer)
    assert [record.epoch for record in longer.epochs()] == [3, 4, 5, 6]
    write_snapshot(half_way, longer)
    assert read_recorded_training(half_way).options.epochs == 6


def test_a_snapshot_of_version_0_1_0_is_resumed(half_way: Path, digits: np.ndarray) -> None:
    content = json.loads(_metadata(half_way / SNAPSHOT)["training"])
    added = {"posterior", "beta", "augment", "test_share", "patience"}
    identity = {name: value for name, value in content["identity"].items() if name not in added}
    tensors = load_file(half_way / SNAPSHOT)
    save_file(tensors, half_way / SNAPSHOT, {"training": json.dumps(content | {"identity": identity})})
    assert read_recorded_training(half_way).options == OPTIONS
    resume_training(half_way, Training(MLP, digits[:200], OPTIONS))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 3),
        ("beta", 2.0),
        ("learning_rate", 1e-3),
        ("seed", 4),
        ("precision", "bfloat16"),
        ("ema", 0.5),
        ("holdout", 21),
    ],
)
def test_another_option_is_refused_by_name(half_way: Path, digits: np.ndarray, option: str, value: object) -> None:
    changed = replace(OPTIONS, **{option: value})  # type: ignore[arg-type]
    with pytest.raises(OptionsError) as caught:
        resume_training(half_way, Training(MLP, digits[:200], changed))
    before = getattr(OPTIONS, option)
    assert str(caught.value) == f"{option}: expected {before!r}, as in the snapshot, got {value!r}"


def test_another_architecture_is_refused_with_its_field(half_way: Path, digits: np.ndarray) -> None:
    with pytest.raises(OptionsError, match=r"^hidden: expected \[32\], as in the snapshot, got \[33\]"):
        resume_training(half_way, Training(replace(MLP, hidden=(33,)), digits[:200], OPTIONS))


def test_other_images_are_refused(half_way: Path, digits: np.ndarray) -> None:
    changed = digits[:200].copy()
    changed[0, 0, 0, 0] ^= 1
    with pytest.raises(OptionsError, match=r"^data: expected '[0-9a-f]{64}', as in the snapshot"):
        resume_training(half_way, Training(MLP, changed, OPTIONS))


def test_another_model_to_start_from_is_refused(tmp_path: Path, digits: np.ndarray) -> None:
    one, other = (Checkpoint("start", build(MLP, seed), f"digest-{seed}", 0) for seed in (1, 2))
    begun = Training(MLP, digits[:200], OPTIONS, start=one)
    run(begun, 1)
    write_snapshot(tmp_path, begun)
    resume_training(tmp_path, Training(MLP, digits[:200], OPTIONS, start=one))
    with pytest.raises(OptionsError, match=r"^start: expected 'digest-1', as in the snapshot, got 'digest-2'$"):
        resume_training(tmp_path, Training(MLP, digits[:200], OPTIONS, start=other))


@pytest.mark.parametrize("options", [OPTIONS, replace(OPTIONS, weight_norm=True)])
def test_a_training_is_resumed_without_the_model_from_which_it_started(tmp_path: Path, digits, options) -> None:
    start = Checkpoint("start", build(MLP, 1), "digest-1", 0)
    straight, broken_off = (Training(MLP, digits[:200], options, start=start) for _ in range(2))
    run(straight, 4)
    run(broken_off, 2)
    write_snapshot(tmp_path, broken_off)
    resumed = Training(MLP, digits[:200], options)
    resume_training(tmp_path, resumed)
    run(resumed, 4)
    ends = [training.average.state_dict() for training in (straight, resumed)]
    assert all(ends[0][key].equal(ends[1][key]) for key in ends[0])
    write_snapshot(tmp_path, resumed)
    assert read_recorded_training(tmp_path) == RecordedTraining(MLP, options, "cpu", "digest-1")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"clip": ABSENT}, "training.identity.clip is missing"),
        ({"start": ABSENT}, "training.identity.start is missing"),
        ({"epochs": 0}, "epochs: expected an integer from 1 to 1000000, got 0"),
        ({"ema": "x"}, "must be real number, not str"),
        ({"hidden": [0]}, "hidden: expected integers between 1 and 65536"),
        ({"channels": 3}, "channels: expected integers between 1 and 65536, got 3"),
    ],
)
def test_a_damaged_record_is_refused_with_the_name_of_the_file(half_way: Path, changes, reason: str) -> None:
    content = json.loads(_metadata(half_way / SNAPSHOT)["training"])
    identity = {name: value for name, value in (content["identity"] | changes).items() if value != ABSENT}
    tensors = load_file(half_way / SNAPSHOT)
    save_file(tensors, half_way / SNAPSHOT, {"training": json.dumps(content | {"identity": identity})})
    with pytest.raises(CheckpointError, match=f"{SNAPSHOT}: {reason}"):
        read_recorded_training(half_way)


@pytest.mark.parametrize("kept", [0, 7, 500, -1])
def test_a_truncated_snapshot_is_refused_with_its_name(half_way: Path, digits: np.ndarray, kept: int) -> None:
    path = half_way / SNAPSHOT
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=rf"{SNAPSHOT}: not a complete training snapshot"):
        resume_training(half_way, Training(MLP, digits[:200], OPTIONS))


def test_a_weights_file_is_refused_as_snapshot(half_way: Path, digits: np.ndarray) -> None:
    save_file({"weight": torch.zeros(1)}, half_way / SNAPSHOT)
    with pytest.raises(CheckpointError, match=rf"{SNAPSHOT}: not a complete training snapshot"):
        resume_training(half_way, Training(MLP, digits[:200], OPTIONS))


def test_a_missing_snapshot_is_named(tmp_path: Path, digits: np.ndarray) -> None:
    with pytest.raises(CheckpointError, match=rf"{SNAPSHOT}: No such file or directory"):
        resume_training(tmp_path, Training(MLP, digits[:200], OPTIONS))


@pytest.mark.parametrize(("shape", "got"), [((9, 9), r"float32 \[9, 9\]"), (None, "none")])
def test_a_tensor_of_another_shape_is_refused_with_both_shapes(half_way: Path, digits, shape, got: str) -> None:
    path, key = half_way / SNAPSHOT, "average.encoder.network.1.weight"
    tensors = load_file(path)
    metadata = _metadata(path)
    tensors.pop(key)
    if shape:
        tensors[key] = torch.zeros(shape)
    save_file(tensors, path, metadata)
    with pytest.raises(CheckpointError, match=rf"{SNAPSHOT}: {key}: expected float32 \[32, 64\], got {got}"):
        resume_training(half_way, Training(MLP, digits[:200], OPTIONS))


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        metadata: dict[str, str] = file.metadata()
        return metadata
