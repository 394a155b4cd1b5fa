"""Tests of reading folders of image files as data sets."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.data.arrays import DataError
from model.data.datasets import read_dataset


def save(path: Path, mode: str = "L", size: tuple[int, int] = (9, 7), colour: object = 100, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "mode", "colour"),
    [
        ("a.png", "1", 1),
        ("a.png", "L", 255),
        ("a.png", "LA", (255, 255)),
        ("a.png", "P", 255),
        ("a.png", "RGB", (255, 255, 255)),
        ("a.png", "RGBA", (255, 255, 255, 255)),
        ("a.png", "I;16", 65535),
        ("a.jpg", "L", 255),
        ("a.JPEG", "CMYK", (0, 0, 0, 0)),
        ("a.webp", "RGB", (255, 255, 255)),
        ("a.bmp", "RGB", (255, 255, 255)),
        ("a.gif", "L", 255),
    ],
)
@pytest.mark.parametrize("shape", [(1, 5, 4), (3, 12, 20)])
def test_white_is_white_in_every_mode_and_format(tmp_path: Path, name, mode, colour, shape) -> None:
    save(tmp_path / name, mode, colour=colour)
    if mode == "P":
        Image.new("L", (9, 7), 255).convert("P").save(tmp_path / name)
    train = read_dataset(tmp_path, shape).train
    assert train.shape == (1, *shape)
    assert train.dtype == np.uint8
    assert train.min() >= 254


def test_sixteen_bits_of_grey_are_scaled_to_eight(tmp_path: Path) -> None:
    save(tmp_path / "a.png", "I;16", colour=100 * 257)
    assert np.unique(read_dataset(tmp_path, (1, 7, 9)).train).tolist() == [100]


def test_transparency_is_flattened_onto_white(tmp_path: Path) -> None:
    save(tmp_path / "a.png", "RGBA", colour=(0, 0, 0, 0))
    save(tmp_path / "b.png", "RGBA", colour=(0, 0, 0, 51))
    first, second = read_dataset(tmp_path, (3, 7, 9)).train
    assert first.min() == 255
    assert np.unique(second).tolist() == [204]


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    picture = Image.new("L", (8, 4))
    picture.paste(255, (0, 0, 4, 4))
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    picture.save(tmp_path / "a.png", exif=exif)
    upright = read_dataset(tmp_path, (1, 8, 4)).train[0, 0]
    assert upright[:3].min() > upright[5:].max()


def test_a_folder_is_read_recursively_in_the_order_of_names(tmp_path: Path) -> None:
    for number, name in enumerate(["a/z.png", "b.png", "c/d/e.png"]):
        save(tmp_path / name, colour=number)
    (tmp_path / "notes.txt").write_text("text")
    assert read_dataset(tmp_path, (1, 7, 9)).train[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_train_and_test_folders_are_the_splits(tmp_path: Path) -> None:
    for name in ("train/a.png", "train/b.png", "test/c.png"):
        save(tmp_path / name)
    dataset = read_dataset(tmp_path, (1, 7, 9))
    assert (len(dataset.train), len(dataset.held_out)) == (2, 1)


def test_a_damaged_image_file_is_named(tmp_path: Path) -> None:
    save(tmp_path / "good.png", "RGB", (60, 60), (9, 8, 7))
    content = (tmp_path / "good.png").read_bytes()
    for name, damaged in (("none.png", b"nothing"), ("empty.jpg", b""), ("cut.png", content[: len(content) // 2])):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{name}: (expected an image file|the image file is damaged)"):
            read_dataset(tmp_path, (1, 7, 9))
        (tmp_path / name).unlink()


@pytest.mark.parametrize("shape", [None, (1, 7, 9)])
def test_a_folder_without_image_files_is_refused(tmp_path: Path, shape) -> None:
    with pytest.raises(DataError, match="expected MNIST files or image files"):
        read_dataset(tmp_path, shape)


def test_image_files_need_an_image_shape(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    with pytest.raises(DataError, match="no MNIST files found; image files need an image_shape"):
        read_dataset(tmp_path)


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        read_dataset(tmp_path / "nowhere")


def test_arrays_of_another_shape_than_that_of_the_model_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 8, 8), np.uint8))
    assert read_dataset(tmp_path / "a.npy", (1, 8, 8)).image_shape == (1, 8, 8)
    with pytest.raises(DataError, match=r"expected images of shape \(1, 28, 28\), got \(1, 8, 8\)"):
        read_dataset(tmp_path / "a.npy", (1, 28, 28))
