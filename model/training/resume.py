"""Training snapshots: one safetensors file from which a training resumes with the same bits.

Tensors are stored as such, everything else as JSON in the metadata of the file.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from model.config import ConfigError, VAEConfig
from model.errors import OptionsError
from model.files import CheckpointError, open_regular, parse_json, write_atomically
from model.records import EpochRecord, read_record
from model.training.options import TrainingOptions
from model.training.trainer import Training

SNAPSHOT = "training.safetensors"
ADDED_FIELDS: dict[str, Any] = {
    "posterior": "clamped",
    "beta": 1.0,
    "augment": "",
    "test_share": 0.0,
    "patience": 0,
    "init": "torch",
}
"""Fields of config and options that snapshots of version 0.1.0 lack, with the values that they had then."""

ADAM_STATE = ("exp_avg", "exp_avg_sq")
"""Tensors that Adam keeps for each weight."""


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """JSON content of a snapshot: what has to be the same on resuming, the step, and the finished epochs."""

    identity: dict[str, Any]
    step: int
    records: tuple[EpochRecord, ...]


@dataclass(frozen=True, slots=True)
class RecordedTraining:
    """Architecture, options and kind of device of the training in a snapshot, and the digest of its starting model."""

    config: VAEConfig
    options: TrainingOptions
    device: str
    start: str | None


def write_snapshot(folder: Path, training: Training) -> None:
    """Write the state of a training to `folder`, for `resume_training`."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in _tensors(training).items()}
    tensors["generator"] = training.generator.get_state()
    records = [asdict(record) for record in training.records]
    content = {"identity": _identity(training), "step": training.step, "records": records}
    write_atomically(folder / SNAPSHOT, save(tensors, {"training": json.dumps(content)}))


def read_recorded_training(folder: Path) -> RecordedTraining:
    """Read what the snapshot in `folder` was trained with. Raises `CheckpointError`."""
    path = folder / SNAPSHOT
    with _opened(path) as file:
        content = _content(file)
    try:
        identity = read_record(SnapshotRecord, "training", content).identity
        config, options = (
            {field.name: _entry(identity, field.name) for field in fields(kind)}
            for kind in (VAEConfig, TrainingOptions)
        )
        start, device = _entry(identity, "start"), _entry(identity, "device")
        return RecordedTraining(VAEConfig.from_dict(config), TrainingOptions(**options), device, start)
    except (ConfigError, OptionsError, TypeError, ValueError) as error:  # TypeError: a text where a number belongs
        raise CheckpointError(f"{path}: {error}") from None


def resume_training(folder: Path, training: Training) -> None:
    """Restore a new `training` to the state in `folder`; it is not changed if the snapshot cannot be used.

    A training without a starting model gets the digest of the recorded one: its weights come from the snapshot. Raises
    `CheckpointError` for a file that is incomplete or damaged, and `OptionsError` for one of other options, another
    architecture, starting model or data set. The training may have more epochs than the recorded one.
    """
    path = folder / SNAPSHOT
    with _opened(path) as file:
        content = _content(file)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    try:
        snapshot = read_record(SnapshotRecord, "training", content)
        _check_identity(snapshot.identity, _identity(training))
        _check_unknown_fields(content)
        _check_progress(snapshot, training.steps_per_epoch)
        _check_tensors(tensors, _expected(training))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    try:
        training.generator.set_state(tensors.pop("generator"))
    except RuntimeError:
        raise CheckpointError(f"{path}: generator: not a state of a random generator") from None
    _restore(training, snapshot, tensors)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file; errors of reading it become a `CheckpointError` with its path."""
    try:
        with open_regular(path), safe_open(path, "pt") as file:
            yield file
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except KeyError:
        raise CheckpointError(f"{path}: not a complete training snapshot: no metadata named training") from None
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: not a complete training snapshot: {error}") from None


def _content(file: Any) -> Any:
    return parse_json((file.metadata() or {})["training"])


def _entry(identity: dict[str, Any], name: str) -> Any:
    if name not in identity and name in ADDED_FIELDS:
        return ADDED_FIELDS[name]
    if name not in identity:
        raise ValueError(f"training.identity.{name} is missing")
    return identity[name]


def _identity(training: Training) -> dict[str, Any]:
    given = {"device": training.images.device.type, "data": training.data, "start": training.start}
    identity = training.vae.config.as_dict() | training.options.as_dict() | given
    as_written: dict[str, Any] = json.loads(json.dumps(identity))
    return as_written


def _check_identity(before: dict[str, Any], now: dict[str, Any]) -> None:
    recorded = {name: _entry(before, name) for name in now}
    for name, value in now.items():
        is_longer = name == "epochs" and value > recorded[name]
        if value != recorded[name] and (name, value) != ("start", None) and not is_longer:
            raise OptionsError(f"{name}: expected {recorded[name]!r}, as in the snapshot, got {value!r}")


def _check_unknown_fields(content: dict[str, Any]) -> None:
    known = {field.name for field in fields(EpochRecord)}
    for number, record in enumerate(content["records"]):
        if unknown := sorted(record.keys() - known):
            raise ValueError(f"training.records[{number}].{unknown[0]} is unknown")


def _check_progress(snapshot: SnapshotRecord, steps_per_epoch: int) -> None:
    for number, record in enumerate(snapshot.records, start=1):
        if record.epoch != number:
            raise ValueError(f"training.records[{number - 1}].epoch: expected {number}, got {record.epoch}")
    epochs = len(snapshot.records)
    if snapshot.step != (expected := epochs * steps_per_epoch):
        steps = f"{expected} after {epochs} epochs of {steps_per_epoch} steps"
        raise ValueError(f"training.step: expected {steps}, got {snapshot.step}")


def _check_tensors(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in expected:
            raise ValueError(f"{name}: not a tensor of this training")
        form, got = _form(expected[name]), _form(tensors[name]) if name in tensors else "none"
        if got != form:
            raise ValueError(f"{name}: expected {form}, got {got}")
        if not tensors[name].isfinite().all():
            raise ValueError(f"{name}: expected finite numbers")


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _expected(training: Training) -> dict[str, Tensor]:
    """Return tensors with the dtypes and shapes of those of a snapshot."""
    weights = dict(training.vae.named_parameters())
    moments = {f"{moment}.{name}": weight for name, weight in weights.items() for moment in ADAM_STATE}
    return _weights(training) | moments | {"generator": training.generator.get_state()}


def _restore(training: Training, snapshot: SnapshotRecord, tensors: dict[str, Tensor]) -> None:
    training.continue_from(snapshot.step, snapshot.records, snapshot.identity["start"])
    for weight in training.vae.parameters():
        step = torch.tensor(float(training.step), device=weight.device)
        training.optimizer.state[weight] = {"step": step} | {moment: torch.zeros_like(weight) for moment in ADAM_STATE}
    for name, tensor in _tensors(training).items():
        tensor.copy_(tensors[name])  # copies into the memory layout of the training


def _tensors(training: Training) -> dict[str, Tensor]:
    states = {name: training.optimizer.state[weight] for name, weight in training.vae.named_parameters()}
    return _weights(training) | {f"{m}.{name}": state[m] for name, state in states.items() for m in ADAM_STATE}


def _weights(training: Training) -> dict[str, Tensor]:
    weights = {f"weight.{name}": weight.detach() for name, weight in training.vae.named_parameters()}
    return weights | {f"average.{name}": weight for name, weight in training.average.named_parameters()}
