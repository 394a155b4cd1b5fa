"""Reading of data sets: MNIST files, folders of image files, .npy and .npz arrays."""

from pathlib import Path

from model.data.arrays import CheckOutline, DataError, Dataset, read_arrays
from model.data.folders import read_image_folder
from model.data.mnist import find_mnist, read_mnist


def read_dataset(path: Path, image_shape: tuple[int, ...] | None = None, check: CheckOutline | None = None) -> Dataset:
    """Read the data set in a file or folder. Raises `DataError`.

    Image files are resized to `image_shape` (C, H, W), which is chosen from them if it is None; arrays and MNIST must
    have this shape. `check` is called before all image files are read.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.is_dir() and not find_mnist(path):
        return read_image_folder(path, image_shape, check)
    dataset = read_mnist(path) if path.is_dir() else read_arrays(path)
    if image_shape not in (None, dataset.image_shape):
        raise DataError(f"{path}: expected images of shape {image_shape}, got {dataset.image_shape}")
    if check:
        check(dataset.outline)
    return dataset
