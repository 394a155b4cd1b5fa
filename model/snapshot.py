"""All that a training needs to go on bit for bit where it stopped: one file of tensors, with the rest as metadata."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from model.checkpoint import CheckpointError, write_atomically
from model.recipe import RecipeError
from model.training import EpochRecord, Training

SNAPSHOT = "training.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")


def write_snapshot(folder: Path, training: Training) -> None:
    """Keep in `folder` the state that `resume_training` goes on from."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in _tensors(training).items()}
    tensors["generator"] = training.generator.get_state()
    records = [asdict(record) for record in training.records]
    content = {"identity": _identity(training), "step": training.step, "records": records}
    write_atomically(folder / SNAPSHOT, save(tensors, {"training": json.dumps(content)}))


def resume_training(folder: Path, training: Training) -> None:
    """Bring `training`, just begun, to where `folder` left it; refuse another recipe, architecture, start or data."""
    path = folder / SNAPSHOT
    try:
        with safe_open(path, "pt") as file:
            content = json.loads(file.metadata()["training"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a complete training snapshot: {error}") from None
    _require_same(content["identity"], _identity(training))
    _restore(path, training, content, tensors)


def _identity(training: Training) -> dict[str, Any]:
    given = {"device": training.images.device.type, "data": training.data, "start": training.start}
    identity = training.vae.config.as_dict() | training.options.as_dict() | given
    as_written: dict[str, Any] = json.loads(json.dumps(identity))
    return as_written


def _require_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    for name, value in now.items():
        if value != before.get(name):
            raise RecipeError(f"{name}: expected {before.get(name)!r}, as the training began, got {value!r}")


def _restore(path: Path, training: Training, content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    training.step = int(content["step"])
    training.records = [EpochRecord(**record) for record in content["records"]]
    training.generator.set_state(tensors.pop("generator"))
    for weight in training.vae.parameters():
        step = torch.tensor(float(training.step), device=weight.device)
        training.optimizer.state[weight] = {"step": step} | {moment: torch.zeros_like(weight) for moment in MOMENTS}
    for name, tensor in _tensors(training).items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            got = tuple(tensors[name].shape) if name in tensors else "none"
            raise CheckpointError(f"{path}: {name}: expected shape {tuple(tensor.shape)}, got {got}")
        tensor.copy_(tensors[name])  # into the memory layout that the training works in


def _tensors(training: Training) -> dict[str, Tensor]:
    weights = dict(training.vae.named_parameters())
    states = {name: training.optimizer.state[weight] for name, weight in weights.items()}
    moments = {f"{moment}.{name}": state[moment] for name, state in states.items() for moment in MOMENTS}
    averages = {f"average.{name}": weight for name, weight in training.average.named_parameters()}
    return {f"weight.{name}": weight.detach() for name, weight in weights.items()} | averages | moments
