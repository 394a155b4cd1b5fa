"""Each image of a source has an id of its own, under any name, and what a source leaves out is reported."""

import os
import tarfile
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from app.datasets.encode import encode_dataset
from app.datasets.entries import ArrayRow
from app.datasets.options import Hardware
from app.datasets.sources import open_source
from model.data.arrays import DataError
from model.data.latents import INDEX
from tests.datasets.test_sources import contents, folder, ids
from tests.support.image_folders import image, write_images

__all__ = ["folder"]


@pytest.mark.parametrize("line", ["..", "./", "c" * 5000 + ".png"])
def test_a_line_that_no_index_can_hold_is_an_image_that_cannot_be_read(tmp_path: Path, line: str) -> None:
    (tmp_path / "x.txt").write_text(f"a.png\n{line}\n")
    _, entry = open_source(tmp_path / "x.txt").entries()
    assert len(entry.id) < 200
    assert not isinstance(entry.place, ArrayRow)
    with pytest.raises(DataError, match="expected the path of an image, of at most 4096 bytes, got"):
        entry.place.read()


def test_members_with_long_names_have_ids_of_their_own(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("a.png", "c" * 60_000 + ".png", "c" * 60_001 + ".png"):
            archive.writestr(name, b"1234")
    first, *others = ids(open_source(tmp_path / "x.zip"))
    assert first == "x.zip/a.png"
    assert len(set(others)) == 2
    assert max(map(len, others)) < 200


RAW = os.fsdecode(b"\xff.png")
SIMILAR = (RAW, "\\xff.png", "\\\\xff.png", f"\\{RAW}", "\\a.png", "\\\\a.png")
"""Names with a byte that is no UTF-8, and with text that looks like its escape."""


def test_no_two_names_have_one_id(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in SIMILAR:
        (folder / name).write_bytes(name.encode(errors="surrogateescape"))
    (tmp_path / "x.txt").write_bytes(b"".join(f"images/{name}\n".encode(errors="surrogateescape") for name in SIMILAR))
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for name in SIMILAR:
            tar.add(folder / name, name)
    few = f"{tmp_path}/im*"
    for source in (folder, tmp_path / "x.txt", tmp_path / "x.tar", few):
        found = contents(open_source(source))
        assert sorted(found.values()) == sorted(name.encode(errors="surrogateescape") for name in SIMILAR)
        assert {Path(each).name for each in found} >= {"\\xff.png", "\\\\xff.png", "\\a.png"}
        assert all(each.encode() for each in found)


def test_a_location_that_is_given_twice_counts_once(folder: Path) -> None:
    assert ids(open_source(folder, f"{folder}/", folder)) == ids(open_source(folder))
    every = [f"images/{name}" for name in ids(open_source(folder))]
    assert ids(open_source(folder, folder / "cat.jpg", folder / ".." / "images")) == every
    assert sorted(ids(open_source(f"{folder}/**"))) == sorted(every)


def test_a_local_url_is_the_path(tmp_path: Path) -> None:
    write_images(tmp_path, 1)
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    os.mkfifo(tmp_path / os.fsdecode(b"p\xe9.png"))
    source = open_source(f"file://{tmp_path}")
    assert ids(source) == ids(open_source(tmp_path)) == ["0/0000.png", "caf\\xe9.png", "p\\xe9.png"]
    with pytest.raises(DataError, match="expected a regular file"):
        contents(source)


def test_names_in_a_store_are_valid_text() -> None:
    store = fsspec.filesystem("memory")
    store.pipe(f"/bucket/{RAW}", b"1234")
    try:
        assert contents(open_source("memory://bucket")) == {"\\xff.png": b"1234"}
    finally:
        store.rm("/bucket", recursive=True)


def test_members_with_one_name_count_once_in_each_archive_and_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("a.png", "./a.png", "b.png")
    with tarfile.open(tmp_path / "x.tar", "w") as tar, zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
            archive.writestr(name, b"")
    for name in ("x.tar", "x.zip"):
        assert [*map(ids, [open_source(tmp_path / name)] * 2)] == [[f"{name}/a.png", f"{name}/b.png"]] * 2
    reported = "left out members with the name of an earlier one: a.png"
    assert caplog.messages == [f"{tmp_path / name}: {reported}" for name in ("x.tar", "x.zip")]


def test_arrays_that_are_left_out_are_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.savez(tmp_path / "x.npz", foo=np.zeros((3, 4, 4, 3), np.uint8), bar=np.zeros(3, np.int64))
    for _ in range(2):
        assert len(ids(open_source(tmp_path / "x.npz"))) == 3
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path / 'x.npz'}: left out what holds no images: bar: expected uint8, or floats")
    assert message.endswith("got int64 [3]")


def test_images_with_similar_names_are_all_encoded(digits_model: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number, name in enumerate(SIMILAR):
        image(number).save(tmp_path / "images" / name, "png")
    os.mkfifo(tmp_path / "images" / os.fsdecode(b"p\xe9.png"))
    summary = encode_dataset(tmp_path / "images", digits_model, tmp_path / "out", hardware=Hardware("cpu", threads=1))
    assert (summary.encoded, summary.unreadable, summary.contents.images) == (6, 1, 7)
    errors = {row["id"]: row["error"] for row in pq.read_table(tmp_path / "out" / INDEX).to_pylist() if row["error"]}
    assert [*errors] == ["p\\xe9.png"]
    assert errors["p\\xe9.png"].endswith("p\\xe9.png: expected a regular file")
