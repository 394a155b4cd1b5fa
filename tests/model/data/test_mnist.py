"""Tests of reading and downloading the published MNIST files."""

import gzip
import hashlib
import os
import struct
import tracemalloc
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from model.data.arrays import DataError
from model.data.datasets import read_dataset
from model.data.mnist import DIGESTS, TEST, TRAIN, Downloaded, download_mnist, read_idx, read_mnist
from model.training.options import TrainingOptions
from model.training.trainer import Training
from tests.support.models import DIGITS


def idx(images: np.ndarray) -> bytes:
    count, _, height, width = images.shape
    return struct.pack(">IIII", 2051, count, height, width) + images.tobytes()


class SilentHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def published(tmp_path: Path, digits: np.ndarray) -> Path:
    folder = tmp_path / "published"
    folder.mkdir()
    for name, images in ((TRAIN, digits[:40]), (TEST, digits[40:50])):
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx(images)))
    return folder


@pytest.fixture
def mirror(published: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SilentHandler, directory=str(published))) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def digests(published: Path) -> dict[str, str]:
    contents = {name: gzip.decompress((published / f"{name}.gz").read_bytes()) for name in DIGESTS}
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def test_gzipped_and_plain_files_hold_the_same_images(published: Path, digits: np.ndarray) -> None:
    plain = published / TRAIN
    plain.write_bytes(gzip.decompress((published / f"{TRAIN}.gz").read_bytes()))
    assert np.array_equal(read_idx(plain), digits[:40])
    assert np.array_equal(read_idx(published / f"{TRAIN}.gz"), digits[:40])


def test_the_test_split_is_none_without_its_file(published: Path) -> None:
    assert len(read_mnist(published).held_out) == 10
    (published / f"{TEST}.gz").unlink()
    assert read_mnist(published).test is None


def test_the_test_split_alone_can_be_evaluated_but_not_trained_on(published: Path, digits: np.ndarray) -> None:
    (published / f"{TRAIN}.gz").unlink()
    dataset = read_dataset(published, (1, 8, 8))
    assert np.array_equal(dataset.held_out, digits[40:50])
    with pytest.raises(DataError, match="images: expected at least one to train on, got none"):
        Training(DIGITS, dataset.train, TrainingOptions())


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-30], "not a complete gzip file"),
        (lambda content: content[:40] + b"\x00" * 9 + content[49:], "not a complete gzip file"),
        (lambda content: gzip.compress(gzip.decompress(content)[:-7]), "40 images of 8x8 bytes, got 2553 bytes"),
        (lambda content: gzip.compress(b"\x00\x00\x08\x01" + bytes(20)), "magic number 2051 of IDX images, got 2049"),
        (lambda content: b"\x00\x00\x08", "a header of 16 bytes, got 3"),
        (lambda content: struct.pack(">IIII", 2051, 0, 28, 28), "expected at least one image, got 0 of 28x28 pixels"),
        (
            lambda content: gzip.compress(struct.pack(">IIII", 2051, 9, 0, 28)),
            "at least one image, got 9 of 0x28 pixels",
        ),
        (lambda content: gzip.decompress(content) + b"\x00", "40 images of 8x8 bytes, got more than 2560 bytes"),
        (lambda content: gzip.compress(gzip.decompress(content) + b"\x00"), "8x8 bytes, got more than 2560 bytes"),
        (lambda content: struct.pack(">IIII", 2051, *[2**32 - 1] * 3), f"{2**32 - 1} images of .* bytes, got 0 bytes"),
        (lambda content: gzip.compress(struct.pack(">IIII", 2051, *[2**32 - 1] * 3) + b"\x00"), "bytes, got 1 bytes"),
    ],
)
def test_a_damaged_file_is_refused_with_its_name(published: Path, damage, reason: str) -> None:
    path = published / f"{TRAIN}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=reason) as caught:
        read_mnist(published)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [TRAIN, f"{TRAIN}.gz", TEST])
def test_a_named_pipe_with_the_name_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}: expected a regular file"):
        read_dataset(tmp_path)


def test_of_a_compressed_file_no_more_is_decompressed_than_its_header_states(tmp_path: Path) -> None:
    path, content = tmp_path / f"{TRAIN}.gz", idx(np.zeros((1, 1, 8, 8), np.uint8))
    with gzip.open(path, "wb") as file:
        file.write(content)
        for _ in range(64):
            file.write(bytes(2**20))
    tracemalloc.start()
    with pytest.raises(DataError, match="expected 1 images of 8x8 bytes, got more than 64 bytes"):
        read_idx(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22


@pytest.mark.parametrize("compressed", [False, True])
def test_images_of_more_bytes_than_allowed_are_not_read(tmp_path: Path, compressed: bool) -> None:
    content = idx(np.zeros((40, 1, 8, 8), np.uint8))
    (tmp_path / TRAIN).write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(DataError, match="expected at most 2559 bytes of images, got 2560"):
        read_idx(tmp_path / TRAIN, 2559)
    assert len(read_idx(tmp_path / TRAIN, 2560)) == 40


def test_a_download_writes_both_files_and_reports_progress(tmp_path: Path, published: Path, mirror: str) -> None:
    progress: list[Downloaded] = []
    download_mnist(tmp_path / "mnist", mirror, digests(published), progress.append)
    assert sorted(path.name for path in (tmp_path / "mnist").iterdir()) == [f"{TEST}.gz", f"{TRAIN}.gz"]
    assert np.array_equal(read_mnist(tmp_path / "mnist").train, read_mnist(published).train)
    assert {file.name for file in progress if file.done == file.size} == {f"{TEST}.gz", f"{TRAIN}.gz"}


def test_existing_files_are_not_downloaded_again(published: Path) -> None:
    download_mnist(published, "https://nowhere.invalid/")


def test_a_file_with_another_digest_is_not_written(tmp_path: Path, mirror: str) -> None:
    with pytest.raises(DataError, match=f"expected the published file with SHA-256 {DIGESTS[TRAIN]}, got"):
        download_mnist(tmp_path / "mnist", mirror)
    assert list((tmp_path / "mnist").iterdir()) == []


def test_a_truncated_download_is_not_written(tmp_path: Path, published: Path, mirror: str) -> None:
    expected, path = digests(published), published / f"{TRAIN}.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="not a complete gzip file"):
        download_mnist(tmp_path / "mnist", mirror, expected)
    assert list((tmp_path / "mnist").iterdir()) == []


def test_a_failed_download_is_reported_with_its_address(tmp_path: Path, published: Path, mirror: str) -> None:
    (published / f"{TRAIN}.gz").unlink()
    with pytest.raises(DataError, match=rf"{mirror}{TRAIN}.gz: download failed: .*404"):
        download_mnist(tmp_path / "mnist", mirror)


@pytest.mark.parametrize("base", ["http://example.com/mnist", "file:///etc", "ftp://example.com", "mnist"])
def test_only_https_addresses_are_accepted(tmp_path: Path, base: str) -> None:
    with pytest.raises(DataError, match="expected an https address"):
        download_mnist(tmp_path, base)
