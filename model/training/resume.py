"""All that a training needs to go on bit for bit where it stopped: one file of tensors, with the rest as metadata."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from model.checkpoint import CheckpointError, parse_json, write_atomically
from model.records import ANYTHING, EPOCH, require
from model.training.options import RecipeError
from model.training.trainer import EpochRecord, Training

SNAPSHOT = "training.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")
CONTENT = {"identity": {}, "step": int, "records": [EPOCH]}
"""The form of the JSON in the file's metadata."""


def write_snapshot(folder: Path, training: Training) -> None:
    """Keep in `folder` the state that `resume_training` goes on from."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in _tensors(training).items()}
    tensors["generator"] = training.generator.get_state()
    records = [asdict(record) for record in training.records]
    content = {"identity": _identity(training), "step": training.step, "records": records}
    write_atomically(folder / SNAPSHOT, save(tensors, {"training": json.dumps(content)}))


def resume_training(folder: Path, training: Training) -> None:
    """Restore `training`, just begun, to the state that `folder` holds; nothing is changed unless all of it is usable.

    Raises `CheckpointError` for a file that is incomplete or damaged, `RecipeError` for one of another recipe,
    architecture, starting model or data set.
    """
    path = folder / SNAPSHOT
    content, tensors = _read(path)
    try:
        require("training", CONTENT, content)
        _require_identity(content["identity"], _identity(training))
        _require_progress(content, training.steps_per_epoch)
        _require_tensors(tensors, _expected(training))
    except RecipeError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    try:
        training.generator.set_state(tensors.pop("generator"))
    except RuntimeError:
        raise CheckpointError(f"{path}: generator: not a state of a random generator") from None
    _restore(training, content, tensors)


def _read(path: Path) -> tuple[Any, dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            content = parse_json((file.metadata() or {})["training"])
            return content, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except KeyError:
        raise CheckpointError(f"{path}: not a complete training snapshot: no metadata named training") from None
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: not a complete training snapshot: {error}") from None


def _identity(training: Training) -> dict[str, Any]:
    given = {"device": training.images.device.type, "data": training.data, "start": training.start}
    identity = training.vae.config.as_dict() | training.options.as_dict() | given
    as_written: dict[str, Any] = json.loads(json.dumps(identity))
    return as_written


def _require_identity(before: dict[str, Any], now: dict[str, Any]) -> None:
    require("training.identity", dict.fromkeys(now, ANYTHING), before)
    for name, value in now.items():
        if value != before[name]:
            raise RecipeError(f"{name}: expected {before[name]!r}, as the training began, got {value!r}")


def _require_progress(content: dict[str, Any], steps_per_epoch: int) -> None:
    for number, record in enumerate(content["records"]):
        if unknown := sorted(record.keys() - EPOCH.keys()):
            raise ValueError(f"training.records[{number}].{unknown[0]} is unknown")
        if record["epoch"] != number + 1:
            raise ValueError(f"training.records[{number}].epoch: expected {number + 1}, got {record['epoch']}")
    epochs, step = len(content["records"]), content["step"]
    if step != (expected := epochs * steps_per_epoch):
        steps = f"{expected} after {epochs} epochs of {steps_per_epoch} steps"
        raise ValueError(f"training.step: expected {steps}, got {step}")


def _require_tensors(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in expected:
            raise ValueError(f"{name}: unknown to this training")
        wanted, got = _form(expected[name]), _form(tensors[name]) if name in tensors else "none"
        if got != wanted:
            raise ValueError(f"{name}: expected {wanted}, got {got}")
        if not tensors[name].isfinite().all():
            raise ValueError(f"{name}: expected finite numbers")


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _expected(training: Training) -> dict[str, Tensor]:
    """A tensor of the same type and shape for each one of a snapshot."""
    weights = dict(training.vae.named_parameters())
    moments = {f"{moment}.{name}": weight for name, weight in weights.items() for moment in MOMENTS}
    return _weights(training) | moments | {"generator": training.generator.get_state()}


def _restore(training: Training, content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    training.step = content["step"]
    training.records = [EpochRecord(**record) for record in content["records"]]
    for weight in training.vae.parameters():
        step = torch.tensor(float(training.step), device=weight.device)
        training.optimizer.state[weight] = {"step": step} | {moment: torch.zeros_like(weight) for moment in MOMENTS}
    for name, tensor in _tensors(training).items():
        tensor.copy_(tensors[name])  # into the memory layout that the training works in


def _tensors(training: Training) -> dict[str, Tensor]:
    states = {name: training.optimizer.state[weight] for name, weight in training.vae.named_parameters()}
    return _weights(training) | {f"{m}.{name}": state[m] for name, state in states.items() for m in MOMENTS}


def _weights(training: Training) -> dict[str, Tensor]:
    weights = {f"weight.{name}": weight.detach() for name, weight in training.vae.named_parameters()}
    return weights | {f"average.{name}": weight for name, weight in training.average.named_parameters()}
