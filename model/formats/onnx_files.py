"""The files of a pair of ONNX graphs, found without torch and onnx."""

from pathlib import Path

from model.files import CONFIG, open_regular

PAIR = ("encoder.onnx", "decoder.onnx")
OPTIMUM_PAIR = ("vae_encoder/model.onnx", "vae_decoder/model.onnx")
"""Encoder and decoder, in the layout of this project and in that of optimum."""

NEEDS = f"{' and '.join(PAIR)} with {CONFIG}, or {' and '.join(OPTIMUM_PAIR)}, each with {CONFIG}"

PIPELINE_VAE = "vae"
"""Folder of a pipeline with the autoencoder of which optimum's graphs are an export; then diffusers computes it."""


def is_pair(folder: Path) -> bool:
    """Whether a folder has one of the graphs of a pair."""
    return own_layout(folder) or (_exists(folder, OPTIMUM_PAIR) and not (folder / PIPELINE_VAE).exists())


def own_layout(folder: Path) -> bool:
    """Whether a pair is in the layout of this project."""
    return _exists(folder, PAIR)


def check_pair(folder: Path) -> None:
    """Check that both graphs and their config are files. Raises `CheckpointError`."""
    names = PAIR if own_layout(folder) else OPTIMUM_PAIR
    for path in (*(folder / name for name in names), (folder / names[0]).with_name(CONFIG)):
        with open_regular(path):
            pass


def _exists(folder: Path, names: tuple[str, str]) -> bool:
    return any((folder / name).exists() for name in names)
