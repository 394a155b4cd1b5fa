"""Reading of data sets: MNIST files, folders of image files, .npy and .npz arrays."""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from model.data.arrays import DataError, Dataset, Images, read_arrays
from model.data.images import fit
from model.data.mnist import find_mnist, read_mnist

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}


def read_dataset(path: Path, image_shape: tuple[int, ...] | None = None) -> Dataset:
    """Read the data set in a file or folder. Raises `DataError`.

    Image files are resized to `image_shape` (C, H, W); arrays and MNIST must have this shape.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.is_dir() and not find_mnist(path):
        return _read_image_folder(path, image_shape)
    dataset = read_mnist(path) if path.is_dir() else read_arrays(path)
    if image_shape not in (None, dataset.image_shape):
        raise DataError(f"{path}: expected images of shape {image_shape}, got {dataset.image_shape}")
    return dataset


def _read_image_folder(folder: Path, image_shape: tuple[int, ...] | None) -> Dataset:
    test = folder / "test"
    if not (folder / "train").is_dir():
        return Dataset("image files", _read_images(folder, image_shape))
    return Dataset(
        "pictures",
        _read_images(folder / "train", image_shape),
        _read_images(test, image_shape) if test.is_dir() else None,
    )


def _read_images(folder: Path, image_shape: tuple[int, ...] | None) -> Images:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise DataError(f"{folder}: expected MNIST files or image files ({', '.join(sorted(SUFFIXES))}), got none")
    if image_shape is None:
        raise DataError(
            f"{folder}: no MNIST files found; image files need an image_shape C,H,W to be resized to, such as 3,64,64"
        )
    images = np.empty((len(paths), *image_shape), np.uint8)
    for number, path in enumerate(paths):
        images[number] = _read_image(path, image_shape)
    return images


def _read_image(path: Path, image_shape: tuple[int, ...]) -> Images:
    try:
        with Image.open(path) as image:
            return fit(image, image_shape)
    except UnidentifiedImageError:
        raise DataError(f"{path}: expected an image file, got {path.stat().st_size} bytes of another format") from None
    except Exception as error:  # noqa: BLE001  # Pillow's parsers raise many types of exceptions
        raise DataError(f"{path}: the image file is damaged: {error}") from None
