"""Model formats, one module each: a folder or a name in, an `ImageModel` out.

The format is recognised by what the folder holds. A further format is a module with a function `read`, and its line in
`FORMATS`. This module imports neither torch nor the module of a format, so that a folder can be checked at once.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from model.files import CONFIG, WEIGHTS, CheckpointError, check_folder, require_folder
from model.formats.diffusers_files import NEEDS, PICKLES, check_diffusers_folder, conversion, is_diffusers_folder
from model.formats.hub import DEFAULT_HUB, Hub, HubName, Snapshot, is_hub_name
from model.formats.onnx_files import NEEDS as PAIR_NEEDS
from model.formats.onnx_files import check_pair, is_pair
from model.shipped import find_model

if TYPE_CHECKING:
    from model.interface import ImageModel, Origin, StoredModel

MAX_NAMES_LISTED = 8
"""Files of a folder that an error lists."""


class Format(NamedTuple):
    """A model format.

    `module` has a function `read`, which takes the folder and its `Origin` and returns a `StoredModel`. `recognises`
    returns whether a folder has this format, and `check` raises `CheckpointError` if files are missing, both quickly
    and without torch. `needs` says for people what the folder holds.
    """

    module: str
    recognises: Callable[[Path], bool]
    check: Callable[[Path], None]
    needs: str


def load(source: str | Path, hub: Hub = DEFAULT_HUB) -> "ImageModel":
    """Load the model in a folder of any format, of a shipped name, or of a name on the hub as hf:ORG/NAME, on the CPU.

    Raises `CheckpointError` as `read_model` does, which also returns the records of training and evaluation.
    """
    return read_model(Path(source), hub).model


def read_model(source: Path, hub: Hub = DEFAULT_HUB) -> "StoredModel":
    """Read the model in a folder of any format, in evaluation mode and without gradients, on the CPU.

    `source` is the folder, the name of a shipped model, or a name on the hub. Raises `CheckpointError` for a folder
    without a usable model, or a name that cannot be fetched.
    """
    folder, snapshot = _folder(source, hub)
    stored: StoredModel = import_module(FORMATS[format_of(folder)].module).read(folder, _origin(folder, snapshot))
    return _with_typicality(stored, folder)


def _with_typicality(stored: "StoredModel", folder: Path) -> "StoredModel":
    """Return the model with the calibration in its folder; one that does not fit is left out with a warning."""
    from model.typicality_files import read_typicality  # noqa: PLC0415  # it imports torch

    try:
        return replace(stored, typicality=read_typicality(folder, stored.model.spec))
    except CheckpointError as error:
        warning = f"{error}; scores have no typicality"
        return replace(stored, warnings=(*stored.warnings, warning))


def check_model(source: Path, hub: Hub = DEFAULT_HUB) -> None:
    """Check that a folder has the files of a model, quickly and without torch; fetch a model that is on the hub.

    Raises `CheckpointError`.
    """
    folder, _ = _folder(source, hub)
    FORMATS[format_of(folder)].check(folder)


def _folder(source: Path, hub: Hub) -> tuple[Path, Snapshot | None]:
    """Return the folder of a model, and the snapshot that it is part of if it comes from the hub."""
    if not is_hub_name(source):
        return find_model(source), None
    snapshot = hub.fetch(HubName.parse(source.as_posix()))
    return snapshot.folder, snapshot


def _origin(folder: Path, snapshot: Snapshot | None) -> "Origin":
    from model.interface import Origin  # noqa: PLC0415  # it imports torch

    if snapshot is None:
        return Origin.of_folder(folder)
    return Origin(snapshot.name.short, str(snapshot.name), snapshot.root)


def format_of(source: Path) -> str:
    """Return the name of the format of a folder. Raises `CheckpointError` for a folder that has none of them."""
    if source.is_file():
        raise CheckpointError(f"{source}: expected the folder of a model, got a file{_hint([source])}")
    require_folder(source)
    for name, candidate in FORMATS.items():
        if candidate.recognises(source):
            return name
    needs = "; ".join(f"{name}: {candidate.needs}" for name, candidate in FORMATS.items())
    found = f"not a model folder, it holds {_content(source)}"
    raise CheckpointError(
        f"{source}: {found}; expected {needs}; docs/models.md describes them{_hint(sorted(source.iterdir()))}"
    )


def _content(folder: Path) -> str:
    """Return the first names in a folder as text."""
    names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in folder.iterdir())
    more = ", ..." if len(names) > MAX_NAMES_LISTED else ""
    return (", ".join(names[:MAX_NAMES_LISTED]) + more) or "no files"


def _hint(paths: Iterable[Path]) -> str:
    """Return how the first file that can run code is converted to one that cannot, if there is such a file."""
    for path in paths:
        if path.suffix == ".pt2":
            return (
                f"; loading {path.name} can run code that it carries: export the model with model.formats.onnx.export"
            )
        if path.suffix in PICKLES:
            pickle = f"{path.name} is a pickle, which can run code and is not loaded"
            return f"; {pickle}: for one of Stable Diffusion, {conversion(path)}"
    return ""


def _is_native(folder: Path) -> bool:
    return (folder / CONFIG).exists() or (folder / WEIGHTS).exists()


FORMATS: Mapping[str, Format] = {
    "onnx": Format("model.formats.onnx", is_pair, check_pair, PAIR_NEEDS),
    "diffusers": Format("model.formats.diffusers", is_diffusers_folder, check_diffusers_folder, NEEDS),
    "native": Format("model.formats.native", _is_native, check_folder, f"{CONFIG} and {WEIGHTS} of `vae train`"),
}
"""The formats by name; the first one that recognises a folder reads it."""
