"""A model on disk: config.json beside model.safetensors; nothing executable is ever read."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from model.config import ConfigError, VAEConfig
from model.elbo_percentiles import Reference
from model.files import (
    CONFIG,
    MAX_HEADER,
    METADATA,
    WEIGHTS,
    CheckpointError,
    json_bytes,
    parse_json,
    read_file,
    read_json,
    replacing,
    write_atomically,
    write_json,
)
from model.records import usable_records
from model.vae import VAE

__all__ = [
    "CONFIG",
    "DEFAULT",
    "METRICS",
    "WEIGHTS",
    "Checkpoint",
    "CheckpointError",
    "parse_json",
    "read_checkpoint",
    "read_json",
    "write_atomically",
    "write_checkpoint",
    "write_json",
]

METRICS = "metrics.json"
DEFAULT = Path(__file__).parent / "checkpoints" / "mnist"
"""The model that ships with the package."""

MAX_WEIGHTS = 2**31
"""8 GiB in single precision."""

PAUSES = (0.05, 0.1, 0.2)
"""Seconds until the files of a folder are read again that were not written together: a writer is done in less."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model as it was read: `digest` is the SHA-256 of the weights' file, `parameters` the number of its weights.

    `metrics` are the entries of metrics.json that can be relied on; `reference` are the scores of the images that the
    model was evaluated on. `warnings` say what of metrics.json was left out, and why.
    """

    name: str
    vae: VAE
    digest: str
    parameters: int
    metrics: dict[str, Any] = field(default_factory=dict)
    reference: Reference | None = None
    warnings: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """The folder's name and the beginning of the digest, as answers quote it."""
        return f"{self.name}:{self.digest[:12]}"


class _Files(NamedTuple):
    """What the files of a folder hold: JSON values, and the bytes of the weights with their SHA-256."""

    config: Any
    weights: bytes
    digest: str
    metrics: Any
    fault: str | None = None


def write_checkpoint(folder: Path, config: VAEConfig, weights: dict[str, Tensor]) -> str:
    """Write config and weights as a pair, each atomically; the SHA-256 of the weights' file, in hexadecimal.

    The weights carry the digest of the config. They are replaced first, so that a reader in between meets an old config
    beside weights that name another one, which `read_checkpoint` recognises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = config.as_dict()
    contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()}
    content = save(contiguous, {CONFIG: _canonical_digest(json.loads(json.dumps(values)))})
    architecture = json_bytes(folder / CONFIG, values)
    with replacing(folder / CONFIG, architecture), replacing(folder / WEIGHTS, content):
        pass  # the weights, whose context is the inner one, are replaced first
    return hashlib.sha256(content).hexdigest()


def read_checkpoint(folder: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """The model in `folder` on `device`, in evaluation mode; a `CheckpointError` says what is wrong with the folder.

    What is wrong with metrics.json is no error: it is left out, and a warning of the checkpoint.
    """
    files = _read_together(folder)
    vae = _skeleton(folder / CONFIG, files.config)
    weights = _weights(folder / WEIGHTS, files.weights)
    _require_match(folder / WEIGHTS, weights, vae.state_dict())
    if not _is_pair(files):
        raise CheckpointError(f"{folder / CONFIG}: {WEIGHTS} beside it was written with another {CONFIG}")
    vae.load_state_dict({key: tensor.float() for key, tensor in weights.items()}, assign=True)
    metrics, reference, faults = _history(files)
    frozen = vae.to(device).eval().requires_grad_(False)
    warnings = tuple(f"{folder / METRICS}: {fault}" for fault in faults)
    return Checkpoint(folder.resolve().name, frozen, files.digest, _count(frozen), metrics, reference, warnings)


def _read_together(folder: Path) -> _Files:
    """The files of a folder; where they were not written together they are read again, as they may be changing."""
    pair = None
    for pause in (*PAUSES, 0):
        files = _read_once(folder)
        pair = files if _is_pair(files) else pair
        if pair is files and _describes(files):
            return files
        sleep(pause)
    return pair or files


def _read_once(folder: Path) -> _Files:
    config, weights = read_json(folder / CONFIG), read_file(folder / WEIGHTS)
    digest = hashlib.sha256(weights).hexdigest()
    try:
        return _Files(config, weights, digest, read_json(folder / METRICS) if (folder / METRICS).exists() else {})
    except CheckpointError as error:
        return _Files(config, weights, digest, {}, str(error).removeprefix(f"{folder / METRICS}: "))


def _is_pair(files: _Files) -> bool:
    """Whether config and weights were written together; files of earlier releases do not tell, and count as such."""
    told = _metadata(files.weights).get(CONFIG)
    return told is None or told == _canonical_digest(files.config)


def _describes(files: _Files) -> bool:
    """Whether metrics.json is about these weights; one of earlier releases does not tell, and counts as such."""
    return not isinstance(files.metrics, dict) or files.metrics.get("weights") in (None, files.digest)


def _canonical_digest(value: Any) -> str:
    """The SHA-256 of a JSON value, whatever the order of its fields and its white space."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _metadata(content: bytes) -> dict[str, Any]:
    """The metadata of a safetensors file, as its header has it; none of what is no such file."""
    length = int.from_bytes(content[:8], "little")
    try:
        header = parse_json(content[8 : 8 + length]) if length < MAX_HEADER else None
    except ValueError:
        return {}
    found = header.get(METADATA) if isinstance(header, dict) else None
    return found if isinstance(found, dict) else {}


def _history(files: _Files) -> tuple[dict[str, Any], Reference | None, list[str]]:
    """The usable entries of metrics.json, the reference among them, and what is wrong with the others."""
    if files.fault is not None:
        return {}, None, [f"{files.fault}; the file is left out"]
    metrics, faults = usable_records(files.metrics)
    if not _describes(files):
        told = f"it describes the weights {str(files.metrics['weights'])[:12]}, not {files.digest[:12]}"
        return {}, None, [f"weights: {told}; its figures and percentiles are left out"]
    try:
        reference = Reference.from_dict(metrics["reference"]) if "reference" in metrics else None
    except ValueError as error:
        faults.append(f"reference: {error}; scores have no percentile")
        del metrics["reference"]
        reference = None
    return metrics, reference, faults


def _skeleton(path: Path, config: Any) -> VAE:
    try:
        with torch.device("meta"):
            vae = VAE(VAEConfig.from_dict(config))
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if (count := _count(vae)) > MAX_WEIGHTS:
        raise CheckpointError(f"{path}: expected at most {MAX_WEIGHTS:,} weights, got {count:,}")
    return vae


def _count(vae: VAE) -> int:
    return sum(weight.numel() for weight in vae.parameters())


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
