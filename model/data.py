"""Data sets as arrays of images: MNIST files, a folder of pictures, .npy and .npz arrays; and their binarisation."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from model.arrays import DataError, Dataset, Images, read_arrays
from model.mnist import find_mnist, read_mnist

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}


def read_dataset(path: Path, image_shape: tuple[int, ...] | None = None) -> Dataset:
    """The data set in a file or folder; pictures are fitted to `image_shape` (C, H, W), arrays must have it."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.is_dir() and not find_mnist(path):
        return _read_pictures(path, image_shape)
    dataset = read_mnist(path) if path.is_dir() else read_arrays(path)
    if image_shape not in (None, dataset.image_shape):
        raise DataError(f"{path}: expected images of shape {image_shape}, got {dataset.image_shape}")
    return dataset


def binarised(levels: Tensor, generator: torch.Generator) -> Tensor:
    """Each pixel drawn from the Bernoulli of its grey level: uint8 to float32 of 0 and 1, same shape.

    The dynamic binarisation of Salakhutdinov and Murray (2008), as Burda et al. (2016) train on it.
    """
    return torch.bernoulli(levels / 255, generator=generator)


def _read_pictures(folder: Path, image_shape: tuple[int, ...] | None) -> Dataset:
    if image_shape is None:
        raise DataError(f"{folder}: a folder of pictures needs the image shape they are to be fitted to, like 3,64,64")
    if not (folder / "train").is_dir():
        return Dataset("pictures", _fitted(folder, image_shape))
    test = folder / "test"
    return Dataset(
        "pictures", _fitted(folder / "train", image_shape), _fitted(test, image_shape) if test.is_dir() else None
    )


def _fitted(folder: Path, image_shape: tuple[int, ...]) -> Images:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise DataError(f"{folder}: expected pictures ({', '.join(sorted(SUFFIXES))}), MNIST files or arrays, got none")
    return np.stack(list(_pixels(paths, image_shape)))


def _pixels(paths: Iterable[Path], image_shape: tuple[int, ...]) -> Iterable[Images]:
    for path in paths:
        try:
            with Image.open(path) as picture:
                yield fit(picture, image_shape)
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = "not a picture" if isinstance(error, UnidentifiedImageError) else error
            raise DataError(f"{path}: cannot be read: {reason}") from None


def fit(picture: Image.Image, image_shape: tuple[int, ...]) -> Images:
    """Turned as its EXIF asks, on white where it is transparent, resized: uint8 [C, H, W]."""
    channels, height, width = image_shape
    upright = ImageOps.exif_transpose(picture)
    opaque = _on_white(upright).convert("L" if channels == 1 else "RGB")
    resized = opaque.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized, np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def _on_white(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
