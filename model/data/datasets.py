"""Data sets as arrays of images: MNIST files, a folder of image files, .npy and .npz arrays."""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from model.data.arrays import DataError, Dataset, Images, read_arrays
from model.data.images import fit
from model.data.mnist import find_mnist, read_mnist

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


def _read_pictures(folder: Path, image_shape: tuple[int, ...] | None) -> Dataset:
    test = folder / "test"
    if not (folder / "train").is_dir():
        return Dataset("pictures", _fitted(folder, image_shape))
    return Dataset(
        "pictures", _fitted(folder / "train", image_shape), _fitted(test, image_shape) if test.is_dir() else None
    )


def _fitted(folder: Path, image_shape: tuple[int, ...] | None) -> Images:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise DataError(f"{folder}: expected MNIST files or pictures ({', '.join(sorted(SUFFIXES))}), got none")
    if image_shape is None:
        raise DataError(
            f"{folder}: no MNIST files found, and pictures want an image_shape C,H,W to fit them to, such as 3,64,64"
        )
    images = np.empty((len(paths), *image_shape), np.uint8)
    for number, path in enumerate(paths):
        images[number] = _read_picture(path, image_shape)
    return images


def _read_picture(path: Path, image_shape: tuple[int, ...]) -> Images:
    try:
        with Image.open(path) as picture:
            return fit(picture, image_shape)
    except UnidentifiedImageError:
        raise DataError(f"{path}: expected a picture, got {path.stat().st_size} bytes of none") from None
    except Exception as error:  # noqa: BLE001  # Pillow's parsers raise whatever a broken file leads them to
        raise DataError(f"{path}: expected a whole picture, got {error}") from None
