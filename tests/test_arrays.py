"""Arrays of images are read from .npy and .npz files, or refused with the shape that came."""

from pathlib import Path

import numpy as np
import pytest

from model.arrays import DataError, Dataset, digest, read_arrays

GREY, COLOUR = np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7), np.zeros((4, 6, 7, 3), np.uint8)


@pytest.mark.parametrize(
    ("array", "shape"), [(GREY, (5, 1, 6, 7)), (COLOUR, (4, 3, 6, 7)), (GREY[..., None], (5, 1, 6, 7))]
)
def test_grey_and_colour_arrays_become_channels_first(tmp_path: Path, array: np.ndarray, shape: tuple) -> None:
    np.save(tmp_path / "images.npy", array)
    dataset = read_arrays(tmp_path / "images.npy")
    assert dataset.train.shape == shape
    assert dataset.train.flags.c_contiguous
    assert dataset.test is None


def test_no_pixel_is_moved(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (4, 6, 7, 3), np.uint8)
    np.save(tmp_path / "images.npy", colour)
    assert np.array_equal(read_arrays(tmp_path / "images.npy").train.transpose(0, 2, 3, 1), colour)


def test_an_npz_file_has_train_and_test_or_one_array_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "both.npz", train=GREY, test=GREY[:2])
    np.savez_compressed(tmp_path / "one.npz", anything=GREY)
    both, one = read_arrays(tmp_path / "both.npz"), read_arrays(tmp_path / "one.npz")
    assert both.test is not None
    assert (len(both.train), len(both.test), len(both.held_out)) == (5, 2, 2)
    assert (len(one.train), one.test, len(one.held_out)) == (5, None, 5)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (GREY.astype(np.float32), "expected uint8 grey levels, got float32"),
        (GREY[0], r"expected \[N, H, W\] or .*, got \[6, 7\]"),
        (np.zeros((2, 3, 6, 7), np.uint8), r"with C of 1 or 3, got \[2, 3, 6, 7\]"),
        (GREY[:0], r"expected at least one image, got \[0, 6, 7\]"),
        (np.array([{"a": 1}]), "allow_pickle"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, reason: str) -> None:
    path = tmp_path / "images.npy"
    np.save(path, array, allow_pickle=True)
    with pytest.raises(DataError, match=reason) as caught:
        read_arrays(path)
    assert str(caught.value).startswith(str(path))


def test_an_npz_of_several_arrays_without_train_is_refused_with_their_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=GREY, b=GREY)
    with pytest.raises(DataError, match=r"expected `train` .*, got \['a', 'b'\]"):
        read_arrays(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
@pytest.mark.parametrize("kept", [0, 20, 150])
def test_a_truncated_file_is_refused_by_its_name(tmp_path: Path, name: str, kept: int) -> None:
    (np.save if name.endswith("npy") else np.savez)(tmp_path / name, GREY)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:kept])
    with pytest.raises(DataError, match=name):
        read_arrays(tmp_path / name)


def test_splits_of_different_shapes_are_refused() -> None:
    with pytest.raises(DataError, match=r"images of one shape, got \(1, 6, 7\) to train on, \(1, 7, 6\) to test on"):
        Dataset("x", np.zeros((2, 1, 6, 7), np.uint8), np.zeros((2, 1, 7, 6), np.uint8))


def test_the_digest_tells_shape_and_pixels_apart() -> None:
    images = np.zeros((2, 1, 6, 7), np.uint8)
    changed = images.copy()
    changed[1, 0, 5, 6] = 1
    assert len({digest(images), digest(changed), digest(images.reshape(2, 1, 7, 6))}) == 3
    assert digest(images) == digest(images.copy())
