"""Checkpoint folder: config.json and model.safetensors, with metrics.json where the model was evaluated.

Only JSON and safetensors are read; nothing in a folder is executed or unpickled.
"""

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
from model.elbo_percentiles import ElboPercentiles
from model.errors import reporting_file
from model.files import (
    CONFIG,
    MAX_HEADER,
    METADATA,
    WEIGHTS,
    CheckpointError,
    is_present,
    json_bytes,
    parse_json,
    read_file,
    read_json,
    replacing,
    require_folder,
)
from model.records import Metrics, read_metrics
from model.shipped import CHECKPOINTS
from model.vae import VAE

METRICS = "metrics.json"
DEFAULT = CHECKPOINTS / "mnist"
"""Folder of the model that is part of the package."""

MAX_WEIGHTS = 2**31
"""Largest number of weights, 8 GiB in float32."""

RETRY_DELAYS = (0.05, 0.1, 0.2)
"""Seconds between attempts to read files that were not written together; a writer needs less."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model read from a folder.

    `digest` is the SHA-256 of the weights file, `parameters` the number of weights, `metrics` the usable entries of
    metrics.json. Each of `warnings` names an entry of metrics.json that was left out, and the reason.
    """

    name: str
    vae: VAE
    digest: str
    parameters: int
    metrics: Metrics = field(default_factory=Metrics)
    warnings: tuple[str, ...] = ()

    @property
    def reference(self) -> ElboPercentiles | None:
        """ELBO percentiles of the evaluated images, if the model was evaluated."""
        return self.metrics.reference

    @property
    def identity(self) -> str:
        """Name of the folder and the first 12 digits of the digest, as responses quote it."""
        return f"{self.name}:{self.digest[:12]}"


class _Files(NamedTuple):
    """Contents of a folder: JSON values, the weights and their SHA-256; `fault` is the error of metrics.json."""

    config: Any
    weights: bytes
    digest: str
    metrics: Any
    fault: str | None = None


def write_checkpoint(folder: Path, config: VAEConfig, weights: dict[str, Tensor]) -> str:
    """Write config and weights, each atomically, and return the SHA-256 of the weights file in hexadecimal.

    The weights file contains the digest of the config and is replaced first. A reader that runs between the two
    replacements therefore finds weights that name another config, and `read_checkpoint` retries.
    """
    with reporting_file(folder):
        folder.mkdir(parents=True, exist_ok=True)
    values = config.as_dict()
    contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()}
    content = save(contiguous, {CONFIG: _canonical_digest(json.loads(json.dumps(values)))})
    architecture = json_bytes(folder / CONFIG, values)
    with replacing(folder / CONFIG, architecture), replacing(folder / WEIGHTS, content):
        pass  # the inner context ends first, so the weights are replaced before the config
    return hashlib.sha256(content).hexdigest()


def read_checkpoint(folder: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read the model in `folder` to `device`, in evaluation mode and without gradients.

    Raises `CheckpointError` for a config or weights that are missing, damaged or inconsistent. Entries of metrics.json
    that cannot be used are left out and named in `warnings`.
    """
    require_folder(folder)
    files = _read_files(folder)
    vae = _empty_vae(folder / CONFIG, files.config)
    weights = _parse_weights(folder / WEIGHTS, files.weights)
    _check_weights(folder / WEIGHTS, weights, vae.state_dict())
    if not _is_pair(files):
        raise CheckpointError(f"{folder / CONFIG}: {WEIGHTS} in this folder was written with another {CONFIG}")
    vae.load_state_dict({key: tensor.float() for key, tensor in weights.items()}, assign=True)
    metrics, faults = _metrics(files)
    frozen = vae.to(device).eval().requires_grad_(False)
    warnings = tuple(f"{folder / METRICS}: {fault}" for fault in faults)
    return Checkpoint(folder.resolve().name, frozen, files.digest, _count(frozen), metrics, warnings)


def _read_files(folder: Path) -> _Files:
    """Read the files of a folder; retry while they were not written together, since a writer may be replacing them."""
    pair = None
    for delay in (*RETRY_DELAYS, 0):
        files = _read_once(folder)
        pair = files if _is_pair(files) else pair
        if pair is files and _describes(files):
            return files
        sleep(delay)
    return pair or files


def _read_once(folder: Path) -> _Files:
    config, weights = read_json(folder / CONFIG), read_file(folder / WEIGHTS)
    digest = hashlib.sha256(weights).hexdigest()
    try:
        return _Files(config, weights, digest, read_json(folder / METRICS) if is_present(folder / METRICS) else {})
    except CheckpointError as error:
        return _Files(config, weights, digest, {}, str(error).removeprefix(f"{folder / METRICS}: "))


def _is_pair(files: _Files) -> bool:
    """Return whether config and weights were written together; weights without a config digest fit any config."""
    digest = _metadata(files.weights).get(CONFIG)
    return digest is None or digest == _canonical_digest(files.config)


def _describes(files: _Files) -> bool:
    """Return whether metrics.json describes these weights; one without a weights digest fits any weights."""
    return not isinstance(files.metrics, dict) or files.metrics.get("weights") in (None, files.digest)


def _canonical_digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of the order of its fields and of white space."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _metadata(content: bytes) -> dict[str, Any]:
    """Return the metadata in the header of a safetensors file, empty if the content is no such file."""
    length = int.from_bytes(content[:8], "little")
    try:
        header = parse_json(content[8 : 8 + length]) if length < MAX_HEADER else None
    except ValueError:
        return {}
    found = header.get(METADATA) if isinstance(header, dict) else None
    return found if isinstance(found, dict) else {}


def _metrics(files: _Files) -> tuple[Metrics, list[str]]:
    """Return the usable entries of metrics.json, and a sentence for each that is left out."""
    if files.fault is not None:
        return Metrics(), [f"{files.fault}; the file is left out"]
    if not _describes(files):
        weights = str(files.metrics["weights"])[:12]
        return Metrics(), [
            f"weights: the file describes the weights {weights}, not {files.digest[:12]}; its figures and percentiles "
            "are left out"
        ]
    return read_metrics(files.metrics)


def _empty_vae(path: Path, config: Any) -> VAE:
    """Build a VAE without memory for its weights."""
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


def _parse_weights(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        return load(content)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a complete safetensors file ({error}), {len(content)} bytes") from None


def _check_weights(path: Path, weights: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for key in sorted(expected.keys() | weights.keys()):
        if key not in weights:
            raise CheckpointError(f"{path}: {key} of shape {tuple(expected[key].shape)} is missing")
        if key not in expected:
            raise CheckpointError(f"{path}: {key} is unknown to the architecture in {CONFIG}")
        if weights[key].shape != expected[key].shape:
            shape, got = tuple(expected[key].shape), tuple(weights[key].shape)
            raise CheckpointError(f"{path}: {key}: {CONFIG} requires shape {shape}, the file has {got}")
        if not weights[key].is_floating_point() or not weights[key].float().isfinite().all():
            raise CheckpointError(f"{path}: {key}: expected finite floating-point numbers")
