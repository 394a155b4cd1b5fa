"""Models that are part of the package, by name: `mnist`, `emoji`."""

from pathlib import Path

CHECKPOINTS = Path(__file__).parent / "checkpoints"


def shipped_models() -> list[str]:
    """Return the names of the models that are part of the package."""
    return sorted(folder.name for folder in CHECKPOINTS.iterdir() if folder.is_dir())


def find_model(source: Path) -> Path:
    """Return the folder of a shipped model if `source` is its name, else `source`.

    A file or folder of this name in the current directory has priority.
    """
    is_name = len(source.parts) == 1 and source.name in shipped_models()
    return CHECKPOINTS / source if is_name and not source.exists() else source
