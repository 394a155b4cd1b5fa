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


def test_a_validation_folder_is_the_validation_split(tmp_path: Path) -> None:
    for name in ("train/a.png", "train/b.png", "val/c.png"):
        save(tmp_path / name)
    dataset = read_dataset(tmp_path, (1, 7, 9))
    assert (len(dataset.train), len(dataset.validation), dataset.test) == (2, 1, None)


@pytest.mark.parametrize("root", ["", "train/"])
def test_class_folders_are_labels(tmp_path: Path, root: str) -> None:
    for name in ("cat/a.png", "cat/b.png", "dog/old/c.png"):
        save(tmp_path / root / name)
    dataset = read_dataset(tmp_path, (1, 7, 9))
    assert dataset.labels == ("cat", "cat", "dog")
    assert dataset.describe()["classes"] == {"cat": 2, "dog": 1}


@pytest.mark.parametrize("names", [("a.png", "dog/b.png"), ("dog/a.png", "dog/b.png"), ("a.png",)])
def test_images_that_are_not_all_in_class_folders_have_no_labels(tmp_path: Path, names) -> None:
    for name in names:
        save(tmp_path / name)
    assert read_dataset(tmp_path, (1, 7, 9)).labels == ()


def damage(folder: Path, count: int) -> None:
    save(folder / "good.png", "RGB", (60, 60), (9, 8, 7))
    content = (folder / "good.png").read_bytes()
    damaged = [("none.png", b"nothing"), ("empty.jpg", b""), ("cut.png", content[: len(content) // 2])]
    for number in range(count):
        name, text = damaged[number % 3]
        (folder / f"{number}-{name}").write_bytes(text)


@pytest.mark.parametrize("shape", [None, (1, 7, 9)])
def test_damaged_image_files_are_skipped_and_named(tmp_path: Path, shape) -> None:
    damage(tmp_path, 3)
    dataset = read_dataset(tmp_path, shape)
    assert len(dataset.train) == 1
    assert len(dataset.skipped) == dataset.describe()["skipped"] == 3
    for name, reason in zip(("0-none.png", "1-empty.jpg", "2-cut.png"), dataset.skipped, strict=True):
        assert reason.startswith(str(tmp_path / name))
        assert "expected an image file, got" in reason or "the image file is damaged" in reason


def test_more_than_a_few_damaged_files_are_refused(tmp_path: Path) -> None:
    damage(tmp_path, 11)
    with pytest.raises(DataError, match=r"\(11 of 12 files in .* cannot be read\)"):
        read_dataset(tmp_path, (1, 7, 9))


def test_a_folder_of_damaged_files_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    for shape in (None, (1, 7, 9)):
        with pytest.raises(DataError, match=r"a.png: expected an image file, got 7 bytes .*\(1 of 1 files"):
            read_dataset(tmp_path, shape)


@pytest.mark.parametrize("shape", [None, (1, 7, 9)])
def test_a_folder_without_image_files_is_refused(tmp_path: Path, shape) -> None:
    with pytest.raises(DataError, match="expected MNIST files or image files"):
        read_dataset(tmp_path, shape)


@pytest.mark.parametrize(
    ("size", "shape"),
    [((64, 64), (64, 64)), ((136, 128), (64, 64)), ((640, 480), (48, 64)), ((9, 7), (8, 10)), ((300, 10), (8, 64))],
)
def test_the_image_shape_follows_from_the_commonest_size(tmp_path: Path, size, shape) -> None:
    for number, other in enumerate([size, size, (31, 33)]):
        save(tmp_path / f"{number}.png", "RGB", other, (200, 100, 0))
    dataset = read_dataset(tmp_path)
    assert dataset.image_shape == (3, *shape)
    assert dataset.shape_reason.startswith(f"colour; the size of 2 of 3 images is {size[0]}x{size[1]}; multiples of ")


def test_a_folder_of_grey_images_has_one_channel(tmp_path: Path) -> None:
    save(tmp_path / "a.png", "L")
    save(tmp_path / "b.png", "RGB", colour=(7, 7, 7))
    assert read_dataset(tmp_path).image_shape == (1, 8, 10)
    save(tmp_path / "c.png", "RGB", colour=(7, 7, 8))
    assert read_dataset(tmp_path).image_shape == (3, 8, 10)


def test_the_chosen_shape_is_upright(tmp_path: Path) -> None:
    picture = Image.new("L", (40, 20))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.png", exif=exif)
    assert read_dataset(tmp_path).image_shape == (1, 40, 24)


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        read_dataset(tmp_path / "nowhere")


def test_arrays_of_another_shape_than_that_of_the_model_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 8, 8), np.uint8))
    assert read_dataset(tmp_path / "a.npy", (1, 8, 8)).image_shape == (1, 8, 8)
    with pytest.raises(DataError, match=r"expected images of shape \(1, 28, 28\), got \(1, 8, 8\)"):
        read_dataset(tmp_path / "a.npy", (1, 28, 28))
