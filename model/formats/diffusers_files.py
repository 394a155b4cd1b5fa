"""The files of a diffusers autoencoder, found and checked without torch and diffusers.

A folder has config.json with `_class_name`, and weights in one or several safetensors files, which may be those of a
variant such as fp16. The folder of a whole pipeline has the autoencoder in its folder vae.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from model.files import CONFIG, CheckpointError, check_weights_file, read_json

CLASS = "_class_name"
PIPELINE = "model_index.json"
SUBFOLDER = "vae"
STEM = "diffusion_pytorch_model"
SUFFIX = ".safetensors"
INDEX = f"{STEM}{SUFFIX}.index"
NEEDS = f"{CONFIG} with {CLASS} and {STEM}*{SUFFIX}, or a pipeline's folder with them in {SUBFOLDER}/"

PICKLES = (".bin", ".ckpt", ".pt", ".pth")
"""Suffixes of files that run code when they are loaded."""


class DiffusersFiles(NamedTuple):
    """The folder of an autoencoder, its config, the variant of its weights, and the files that have them."""

    folder: Path
    config: dict[str, Any]
    variant: str | None
    weights: tuple[Path, ...]


def is_diffusers_folder(folder: Path) -> bool:
    """Whether a folder is that of a diffusers autoencoder, or of a pipeline."""
    return (folder / PIPELINE).exists() or CLASS in _fields(folder) or CLASS in _fields(folder / SUBFOLDER)


def check_diffusers_folder(folder: Path) -> None:
    """Check that the files are there and complete. Raises `CheckpointError`."""
    for path in find_files(folder).weights:
        check_weights_file(path)


def find_files(folder: Path) -> DiffusersFiles:
    """Find the files of an autoencoder; weights without a variant are preferred. Raises `CheckpointError`."""
    if CLASS not in _fields(folder):
        folder = folder / SUBFOLDER
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or CLASS not in config:
        raise CheckpointError(f"{folder / CONFIG}: expected an object with {CLASS}, as diffusers writes it")
    for variant in (None, *sorted(_variants(folder))):
        if weights := _weights(folder, variant):
            return DiffusersFiles(folder, config, variant, weights)
    raise _no_weights(folder, config)


def conversion(path: Path, class_name: str = "AutoencoderKL") -> str:
    """Return the two lines of Python that convert a pickle."""
    source = f"from_pretrained({str(path.parent)!r}, use_safetensors=False)"
    if not path.name.startswith(STEM):
        source = f"from_single_file({str(path)!r})"
    return f"vae = diffusers.{class_name}.{source}; vae.save_pretrained('NEW_FOLDER')"


def _fields(folder: Path) -> dict[str, Any]:
    """Return the fields of a config, none if it cannot be read: the error is reported when the model is."""
    try:
        config = read_json(folder / CONFIG)
    except CheckpointError:
        return {}
    return config if isinstance(config, dict) else {}


def _variants(folder: Path) -> Iterator[str]:
    for path in folder.glob(f"{STEM}.*{SUFFIX}"):
        yield path.name.removeprefix(f"{STEM}.").removesuffix(SUFFIX).partition("-")[0]
    for path in folder.glob(f"{INDEX}.*.json"):
        yield path.name.removeprefix(f"{INDEX}.").removesuffix(".json")


def _weights(folder: Path, variant: str | None) -> tuple[Path, ...]:
    """Return the files of the weights of a variant, none if it has none."""
    middle = f".{variant}" if variant else ""
    single, index = folder / f"{STEM}{middle}{SUFFIX}", folder / f"{INDEX}{middle}.json"
    if index.exists():  # diffusers prefers it as well
        return tuple(_shards(index))
    return (single,) if single.exists() else ()


def _shards(index: Path) -> Iterator[Path]:
    """Yield the files that an index names; raises `CheckpointError` for one that is not in the folder."""
    content = read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{index}: expected an object with weight_map")
    for name in sorted(set(map(str, names.values()))):
        if Path(name).name != name or not name.endswith(SUFFIX):
            raise CheckpointError(f"{index}: expected names of {SUFFIX} files in this folder, got {name!r}")
        yield index.parent / name


def _no_weights(folder: Path, config: dict[str, Any]) -> CheckpointError:
    for path in sorted(folder.iterdir()):
        if path.suffix in PICKLES:
            lines = conversion(path, str(config[CLASS]))
            return CheckpointError(f"{path}: a pickle can run code when it is loaded; convert it: {lines}")
    return CheckpointError(f"{folder}: expected weights in {STEM}*{SUFFIX}, found none")
