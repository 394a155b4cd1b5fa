"""Tests of reading .npy and .npz files as data sets."""

import io
import os
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.data.arrays import DataError, Dataset, digest, read_arrays

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


def test_pixels_keep_their_places(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (4, 6, 7, 3), np.uint8)
    np.save(tmp_path / "images.npy", colour)
    assert np.array_equal(read_arrays(tmp_path / "images.npy").train.transpose(0, 2, 3, 1), colour)


def test_an_npz_file_has_train_and_test_or_a_single_array(tmp_path: Path) -> None:
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
        (np.array([{"a": 1}]), "objects"),
    ],
)
def test_arrays_of_other_types_and_shapes_are_refused(tmp_path: Path, array: np.ndarray, reason: str) -> None:
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
def test_a_truncated_file_is_refused_with_its_name(tmp_path: Path, name: str, kept: int) -> None:
    (np.save if name.endswith("npy") else np.savez)(tmp_path / name, GREY)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:kept])
    with pytest.raises(DataError, match=name):
        read_arrays(tmp_path / name)


def _file(write, *content) -> bytes:
    file = io.BytesIO()
    write(file, *content)
    return file.getvalue()


def _encrypted(file: io.BytesIO, array: np.ndarray) -> None:
    np.savez(file, train=array)
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        file.getbuffer()[file.getvalue().index(header) + flags] |= 1


def _archive(file: io.BytesIO, member: bytes, name: str = "a.png") -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, member)


WRITERS = {"x.npy": np.save, "x.npz": np.savez, "compressed.npz": np.savez_compressed}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arrays")


def read_or_refused(path: Path, content: bytes) -> np.ndarray | None:
    """Return the images, or None if they were refused in one line that names the file."""
    path.write_bytes(content)
    message = ""
    try:
        return read_arrays(path).train
    except DataError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    return None


@pytest.mark.parametrize("name", WRITERS)
@given(st.data())
def test_a_damaged_file_is_refused_or_has_the_same_shape(folder: Path, name: str, data: st.DataObject) -> None:
    content = bytearray(_file(WRITERS[name], GREY))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    images = read_or_refused(folder / name, content)
    assert images is None or images.shape == (5, 1, 6, 7)


@pytest.mark.parametrize("name", WRITERS)
@given(st.data())
def test_part_of_a_file_is_refused_in_one_line(folder: Path, name: str, data: st.DataObject) -> None:
    content = _file(WRITERS[name], GREY)
    assert read_or_refused(folder / name, content[: data.draw(st.integers(0, len(content) - 1))]) is None


@pytest.mark.parametrize("write", [_encrypted, _archive])
def test_an_archive_without_readable_arrays_is_refused_in_one_line(folder: Path, write) -> None:
    assert read_or_refused(folder / "x.zip", _file(write, GREY)) is None


def _with_header_of(count: int) -> bytes:
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, 6, 7)}
    return _file(partial(np.lib.format.write_array_header_1_0, d=header)) + GREY.tobytes()


@pytest.mark.parametrize("count", [4, 6, 10**12, 2**62, 10**20, -1, True])
def test_a_header_of_another_length_is_refused_in_one_line(folder: Path, count: int) -> None:
    assert read_or_refused(folder / "x.npy", _with_header_of(count)) is None


@pytest.mark.parametrize("count", [6, 10**12, 2**62, 10**20, -1])
def test_a_header_of_another_length_in_an_archive_is_refused_in_one_line(folder: Path, count: int) -> None:
    assert read_or_refused(folder / "x.npz", _file(partial(_archive, name="train.npy"), _with_header_of(count))) is None


@pytest.mark.parametrize("name", ["images.npy", "images.npz"])
def test_a_named_pipe_is_refused(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}: expected a regular file"):
        read_arrays(tmp_path / name)


def test_splits_of_different_shapes_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"images of one shape, got \(1, 6, 7\) in the training split and \(1, 7, 6\) in the test split"
    ):
        Dataset("x", np.zeros((2, 1, 6, 7), np.uint8), np.zeros((2, 1, 7, 6), np.uint8))


def test_the_digest_depends_on_shape_and_pixels() -> None:
    images = np.zeros((2, 1, 6, 7), np.uint8)
    changed = images.copy()
    changed[1, 0, 5, 6] = 1
    assert len({digest(images), digest(changed), digest(images.reshape(2, 1, 7, 6))}) == 3
    assert digest(images) == digest(images.copy())
