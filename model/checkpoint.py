"""A model on disk: config.json beside model.safetensors; nothing executable is ever read."""

import hashlib
import json
import os
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from model.config import ConfigError, VAEConfig
from model.history import require_usable
from model.reference import Reference
from model.vae import VAE

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
METRICS = "metrics.json"
DEFAULT = Path(__file__).parent / "checkpoints" / "mnist"
"""The model that ships with the package."""

MAX_WEIGHTS = 2**31
"""8 GiB in single precision."""


class CheckpointError(Exception):
    """A folder that does not hold a usable model; the message names the file, the key and the shapes."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model as it was read: `digest` is the SHA-256 of the weights' file, `metrics` what training left beside it.

    `parameters` counts the numbers that the weights are, `reference` are the scores of the images that it was evaluated
    on, once it was.
    """

    name: str
    vae: VAE
    digest: str
    parameters: int
    metrics: dict[str, Any] = field(default_factory=dict)
    reference: Reference | None = None

    @property
    def identity(self) -> str:
        """The folder's name and the beginning of the digest, as answers quote it."""
        return f"{self.name}:{self.digest[:12]}"


def write_checkpoint(folder: Path, config: VAEConfig, weights: dict[str, Tensor]) -> None:
    """Write config and weights so that a reader finds the old files or the new ones, never half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, config.as_dict())
    contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()}
    write_atomically(folder / WEIGHTS, save(contiguous))


def read_checkpoint(folder: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """The model in `folder` on `device`, in evaluation mode; a `CheckpointError` says what is wrong with the folder."""
    vae = _skeleton(folder / CONFIG)
    content = _read(folder / WEIGHTS)
    weights = _weights(folder / WEIGHTS, content)
    _require_match(folder / WEIGHTS, weights, vae.state_dict())
    vae.load_state_dict({key: tensor.float() for key, tensor in weights.items()}, assign=True)
    metrics = _metrics(folder / METRICS)
    frozen = vae.to(device).eval().requires_grad_(False)
    digest, reference = hashlib.sha256(content).hexdigest(), _reference(folder / METRICS, metrics)
    return Checkpoint(folder.resolve().name, frozen, digest, _count(frozen), metrics, reference)


def read_json(path: Path) -> Any:
    """The JSON value in a file."""
    try:
        return parse_json(_read(path))
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from None


def parse_json(content: str | bytes) -> Any:
    """The value of JSON as RFC 8259 has it: no NaN, no infinity; a `ValueError` says what is wrong."""
    try:
        return json.loads(content, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value atomically, readable by a person; JSON has no word for a number that is not finite."""
    try:
        text = json.dumps(value, indent=2, allow_nan=False)
    except ValueError as error:
        raise CheckpointError(f"{path}: expected finite numbers: {error}") from None
    write_atomically(path, f"{text}\n".encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step that survives a crash or a power cut."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _finite(text: str) -> float:
    if not isfinite(value := float(text)):
        raise ValueError(f"{text} is not a finite number")
    return value


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None


def _skeleton(path: Path) -> VAE:
    try:
        with torch.device("meta"):
            vae = VAE(VAEConfig.from_dict(read_json(path)))
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if (count := _count(vae)) > MAX_WEIGHTS:
        raise CheckpointError(f"{path}: expected at most {MAX_WEIGHTS:,} weights, got {count:,}")
    return vae


def _count(vae: VAE) -> int:
    return sum(weight.numel() for weight in vae.parameters())


def _metrics(path: Path) -> dict[str, Any]:
    metrics = read_json(path) if path.exists() else {}
    if not isinstance(metrics, dict):
        raise CheckpointError(f"{path}: expected an object, got {type(metrics).__name__}")
    try:
        require_usable(metrics)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return metrics


def _reference(path: Path, metrics: dict[str, Any]) -> Reference | None:
    try:
        return Reference.from_dict(metrics["reference"]) if "reference" in metrics else None
    except ValueError as error:
        raise CheckpointError(f"{path}: reference: {error}") from None


def _weights(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        return load(content)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a complete safetensors file ({error}), {len(content)} bytes") from None


def _require_match(path: Path, weights: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for key in sorted(expected.keys() | weights.keys()):
        if key not in weights:
            raise CheckpointError(f"{path}: {key} of shape {tuple(expected[key].shape)} is missing")
        if key not in expected:
            raise CheckpointError(f"{path}: {key} is unknown to the architecture in {CONFIG}")
        if weights[key].shape != expected[key].shape:
            wanted, got = tuple(expected[key].shape), tuple(weights[key].shape)
            raise CheckpointError(f"{path}: {key}: {CONFIG} asks for shape {wanted}, the file holds {got}")
        if not weights[key].is_floating_point() or not weights[key].float().isfinite().all():
            raise CheckpointError(f"{path}: {key}: expected finite floating-point numbers")
