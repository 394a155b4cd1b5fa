"""The file typicality.json in a model folder: the calibration of the typicality for the model's weights."""

from pathlib import Path

from model.files import CheckpointError, is_present, read_json, write_json
from model.interface import ModelSpec
from model.statistics import code_length, statistic_names
from model.typicality import Typicality

TYPICALITY = "typicality.json"


def read_typicality(folder: Path, spec: ModelSpec) -> Typicality | None:
    """Read the calibration in a folder; None without a file.

    One by fewer statistics, as earlier versions had, is as good as before. Raises `CheckpointError` for a file that is
    damaged, or that was measured with other weights.
    """
    path = folder / TYPICALITY
    if not is_present(path):
        return None
    content = read_json(path)
    try:
        found = Typicality.from_dict(content)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if found.digest != spec.digest:
        raise CheckpointError(
            f"{path}: expected a calibration of the weights {spec.digest[:12]}, got one of {found.digest[:12]}; "
            "vae calibrate measures it again"
        )
    if unknown := [name for name in found.statistics if name not in statistic_names(spec)]:
        names = ", ".join(statistic_names(spec))
        raise CheckpointError(f"{path}: expected statistics among {names}, got {', '.join(unknown)}")
    if found.codes != code_length(spec):
        raise CheckpointError(
            f"{path}: expected a calibration by codes of {code_length(spec)} values, got {found.codes}"
        )
    if not _takes(spec, found.image_shape):
        channels, height, width = found.image_shape
        raise CheckpointError(
            f"{path}: image_shape: expected one that the model takes, by default {list(spec.image_shape)}, got "
            f"{[channels, height, width]}"
        )
    return found


def _takes(spec: ModelSpec, image_shape: tuple[int, ...]) -> bool:
    try:
        return spec.at(*image_shape[1:]).image_shape == image_shape
    except ValueError:
        return False


def write_typicality(folder: Path, typicality: Typicality) -> Path:
    """Write the calibration into a model folder atomically, and return the path of its file."""
    path = folder / TYPICALITY
    write_json(path, typicality.as_dict())
    return path
