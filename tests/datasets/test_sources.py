"""Sources list images in a fixed order, with their relative path, and read them from files, arrays and archives."""

import gzip
import io
import os
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest

from app.datasets.entries import ArrayRow, Source
from app.datasets.sources import open_source, require_images
from model.data.arrays import DataError, read_arrays
from tests.support.image_folders import NAMES, write_images, write_named


def ids(source: Source) -> list[str]:
    return [entry.id for entry in source.entries()]


def contents(source: Source) -> dict[str, bytes]:
    return {entry.id: entry.place.read() for entry in source.entries()}


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_tar(path: Path, headers: dict[str, str]) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.png")
        info.size, info.pax_headers = 4, headers
        tar.addfile(info, io.BytesIO(b"1234"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_named(tmp_path / "images")
    return tmp_path / "images"


def test_a_folder_is_listed_by_name_in_any_script(folder: Path) -> None:
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"")
    found = ids(open_source(folder))
    assert sorted(found) == sorted(NAMES)
    assert found == ids(open_source(folder))
    assert contents(open_source(folder))["猫/白 猫.webp"] == (folder / "猫/白 猫.webp").read_bytes()


def test_an_entry_has_the_size_and_the_time_of_its_file(folder: Path) -> None:
    os.utime(folder / "cat.jpg", ns=(0, 1_700_000_000_123_456_789))
    (entry,) = (entry for entry in open_source(folder).entries() if entry.id == "cat.jpg")
    assert (entry.size, entry.modified) == ((folder / "cat.jpg").stat().st_size, 1_700_000_000_123_456_789)


def test_a_name_that_is_not_utf8_is_escaped(tmp_path: Path) -> None:
    write_images(tmp_path, 1)
    (tmp_path / "0" / "0000.png").rename(tmp_path / os.fsdecode(b"caf\xe9.png"))
    assert ids(open_source(tmp_path)) == ["caf\\xe9.png"]
    assert contents(open_source(tmp_path))["caf\\xe9.png"].startswith(b"\x89PNG")


def test_a_link_to_a_folder_above_ends(tmp_path: Path) -> None:
    write_images(tmp_path, 3)
    (tmp_path / "2" / "up").symlink_to(tmp_path)
    assert ids(open_source(tmp_path)) == ["0/0000.png", "1/0001.png", "2/0002.png"]


def test_a_folder_that_many_links_lead_to_is_listed_once(tmp_path: Path) -> None:
    folders = [tmp_path / "images" / f"{number:02d}" for number in range(12)]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "x.png").write_bytes(b"")
        for other in folders:
            (folder / f"to{other.name}").symlink_to(other)
    write_images(tmp_path / "elsewhere", 1)
    (tmp_path / "images" / "linked").symlink_to(tmp_path / "elsewhere")
    found = ids(open_source(tmp_path / "images"))
    assert len(found) == 13
    assert found[-1] == "linked/0/0000.png"


def test_a_loop_of_links_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    source = open_source(tmp_path)
    assert ids(source) == ["a.png", "b.png"]
    with pytest.raises(DataError, match="symbolic links"):
        contents(source)


def test_a_pattern_and_several_locations_are_relative_to_what_they_share(folder: Path) -> None:
    assert ids(open_source(f"{folder}/**/*.webp", folder / "γάτα")) == ["猫/白 猫.webp", "γάτα/ψ.gif"]
    assert ids(open_source(str(folder / "*.png"))) == sorted(name for name in NAMES if name.endswith(".png"))


def test_a_list_of_paths_is_read_in_its_order_without_repetitions(folder: Path) -> None:
    listed = folder / "paths.txt"
    listed.write_text("猫/白 猫.webp\ncat.jpg\n\nmissing.png\ncat.jpg\n", encoding="utf-8")
    source = open_source(listed)
    assert ids(source) == ["猫/白 猫.webp", "cat.jpg", "missing.png"]
    with pytest.raises(DataError, match="No such file"):
        contents(source)


def test_tar_and_zip_hold_the_same_images_as_the_folder(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as tar, zipfile.ZipFile(tmp_path / "shard.zip", "w") as archive:
        for name, content in files(folder).items():
            tar.add(folder / name, name)
            archive.writestr(name, content)
        archive.writestr("labels.json", "{}")
    for name in ("shard.tar", "shard.zip"):
        found = contents(open_source(tmp_path / name))
        assert {each.removeprefix(f"{name}/"): content for each, content in found.items()} == files(folder)


def test_a_folder_without_images_has_those_of_its_archives(folder: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(2):
        with tarfile.open(shards / f"{number:03d}.tar", "w") as tar:
            tar.add(folder / "cat.jpg", "0001.jpg")
    expected = ["000.tar/0001.jpg", "001.tar/0001.jpg"]
    assert ids(open_source(shards)) == ids(open_source(f"{shards}/*.tar")) == expected


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_rows_of_npy_and_npz_are_images(tmp_path: Path, dtype: str) -> None:
    images = np.zeros((3, 4, 5), dtype)
    np.save(tmp_path / "x.npy", images)
    np.savez_compressed(tmp_path / "x.npz", train=images, labels=np.zeros(3, np.int64), test=images[:1, ..., None])
    assert ids(open_source(tmp_path / "x.npy")) == ["x.npy/0", "x.npy/1", "x.npy/2"]
    assert ids(open_source(tmp_path / "x.npz")) == ["x.npz/train/0", "x.npz/train/1", "x.npz/train/2", "x.npz/test/0"]
    assert all(isinstance(entry.place, ArrayRow) for entry in open_source(tmp_path / "x.npz").entries())


def test_mnist_files_are_read_compressed_or_not(tmp_path: Path) -> None:
    header = (2051).to_bytes(4, "big") + (2).to_bytes(4, "big") + (28).to_bytes(4, "big") * 2
    content = header + bytes(2 * 784)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    train, test = (f"{name}/{{}}" for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte.gz"))
    assert ids(open_source(tmp_path)) == [train.format(0), train.format(1), test.format(0), test.format(1)]


def test_images_of_an_object_store_are_read(folder: Path) -> None:
    store = fsspec.filesystem("memory")
    for name, content in files(folder).items():
        store.pipe(f"/bucket/images/{name}", content)
    try:
        assert contents(open_source("memory://bucket/images")) == files(folder)
    finally:
        store.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", b"no array", "not a complete .npy array"),
        ("x.npz", b"no archive", "not a complete .npz file"),
        ("x.zip", b"no archive", "expected a zip archive"),
        ("x.tar", b"no archive", "expected a whole tar archive that is not compressed"),
        ("x.tar.gz", b"\x1f\x8b", "decompress it first: gunzip x.tar.gz"),
        ("x.TGZ", b"\x1f\x8b", "decompress it first: gunzip x.TGZ"),
        ("x y.tar.xz", b"\xfd7zXZ", "decompress it first: unxz 'x y.tar.xz'"),
    ],
)
def test_a_file_of_another_format_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(open_source(tmp_path / name).entries())


def test_arrays_that_hold_no_images_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 4), np.uint8))
    with pytest.raises(DataError, match=r"expected uint8, or floats .* got uint8 \[3, 4\]"):
        open_source(tmp_path / "x.npy")


def test_a_source_that_does_not_exist_or_has_no_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        open_source(tmp_path / "missing")
    with pytest.raises(DataError, match=r"\*\.png: no file or folder matches this pattern"):
        open_source(f"{tmp_path}/*.png")
    with pytest.raises(DataError, match="expected images"):
        require_images(open_source(tmp_path), [tmp_path])


def npy_header(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def npz_member(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", content)


@pytest.mark.parametrize("shape", ["(2**40,28,28)", "(1099511627776,28,28)", "(-3,-3,28)", "(1,28)", "(" * 5000])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_an_array_with_a_false_header_is_refused(tmp_path: Path, suffix: str, shape: str) -> None:
    content = npy_header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n".encode()) + bytes(28)
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content) if suffix == ".npy" else npz_member(path, content)
    with pytest.raises(DataError, match=path.name):
        open_source(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("read", [open_source, read_arrays])
def test_a_long_header_of_an_array_is_refused_before_it_is_read(
    tmp_path: Path, suffix: str, read: Callable[[Path], object]
) -> None:
    path, length = tmp_path / f"x{suffix}", 2**24
    header = b"\x93NUMPY\x02\x00" + length.to_bytes(4, "little") + b" " * length
    if suffix == ".npy":
        path.write_bytes(header)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("images.npy", header)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=f"expected a header of at most 10000 bytes, got {length}"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_an_array_that_does_not_fit_into_memory_is_not_read(tmp_path: Path) -> None:
    header = npy_header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({2**40}, 28, 28)}}\n".encode())
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", header)
        archive.infolist()[0].file_size = len(header) + 2**40 * 28 * 28
    with pytest.raises(DataError, match=r"expected at most the .* bytes of free memory"):
        open_source(tmp_path / "x.npz")


def test_arrays_of_objects_beside_the_images_are_left_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 4, 4), np.uint8), labels=np.array([{}, None], object))
    assert ids(open_source(tmp_path / "x.npz")) == ["x.npz/images/0", "x.npz/images/1"]


def zip_with(path: Path, old: bytes, new: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a\u00e9.png", bytes(1000))
        archive.writestr("b.png", b"whole")
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"PK\x01\x02\x14\x03\x14", b"PK\x01\x02\x14\x03\x63"),  # version needed 9.9
        ("a\u00e9.png".encode(), b"a\xff\xff.png"),
        (b"PK\x05\x06", b"PK\x05\x00"),
    ],
)
def test_a_damaged_zip_archive_is_refused(tmp_path: Path, old: bytes, new: bytes) -> None:
    with pytest.raises(DataError, match=r"x\.zip: expected a zip archive: "):
        list(open_source(zip_with(tmp_path / "x.zip", old, new)).entries())


def test_a_member_with_a_false_size_is_not_decompressed_beyond_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(2**26))
    content = bytearray((tmp_path / "x.zip").read_bytes())
    size = content.index(b"PK\x01\x02") + 24
    content[size : size + 4] = (1000).to_bytes(4, "little")
    (tmp_path / "x.zip").write_bytes(content)
    (entry,) = open_source(tmp_path / "x.zip").entries()
    assert entry.size == 1000
    tracemalloc.start()
    try:
        with pytest.raises(zipfile.BadZipFile):
            entry.place.read()
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("method", "name"), [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma")])
def test_a_member_that_only_decompresses_as_a_whole_is_refused(tmp_path: Path, method: int, name: str) -> None:
    for path, member in (("x.zip", "a.png"), ("x.npz", "a.npy")):
        with zipfile.ZipFile(tmp_path / path, "w", method) as archive:
            archive.writestr(member, bytes(100))
        with pytest.raises((ValueError, DataError), match=f"expected a stored or deflated member, got {name}"):
            contents(open_source(tmp_path / path))


@pytest.mark.parametrize("headers", [{"mtime": "inf"}, {"mtime": "nan"}, {"mtime": "1e300"}, {"mtime": "1e12"}])
def test_a_time_that_no_index_can_hold_is_zero(tmp_path: Path, headers: dict[str, str]) -> None:
    write_tar(tmp_path / "x.tar", headers)
    (entry,) = open_source(tmp_path / "x.tar").entries()
    assert entry.modified == 0


@pytest.mark.parametrize("size", ["1" + "0" * 30, "-512"])
def test_a_tar_archive_with_a_false_size_is_refused(tmp_path: Path, size: str) -> None:
    write_tar(tmp_path / "x.tar", {"size": size})
    with pytest.raises(DataError, match=r"x\.tar: expected a whole tar archive"):
        list(open_source(tmp_path / "x.tar").entries())


def test_a_compressed_archive_among_others_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("0.tar", "1.tar.gz", "2.tgz"):
        with tarfile.open(tmp_path / name, "w" if name == "0.tar" else "w:gz") as tar:
            tar.addfile(tarfile.TarInfo("a.png"))
    first, *others = open_source(tmp_path).entries()
    assert (first.id, [entry.id for entry in others]) == ("0.tar/a.png", ["1.tar.gz", "2.tgz"])
    for entry in others:
        with pytest.raises(DataError, match="decompress it first"):
            contents(open_source(tmp_path))[entry.id]


@pytest.mark.parametrize("length", [520, 1100, 1700])
def test_a_tar_archive_that_ends_early_is_refused_after_its_images(folder: Path, tmp_path: Path, length: int) -> None:
    write_tar(tmp_path / "x.tar", {})
    content = (tmp_path / "x.tar").read_bytes()[:1024]
    (tmp_path / "x.tar").write_bytes((content + content)[:length])
    listed = []
    with pytest.raises(DataError, match=r"x\.tar: expected a whole tar archive"):
        listed += open_source(tmp_path / "x.tar").entries()
    (tmp_path / "x.tar").write_bytes(content)  # without the blocks that mark the end
    assert ids(open_source(tmp_path / "x.tar")) == ["x.tar/a.png"]


def test_a_line_with_a_null_character_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"a\0b.png\n")
    assert ids(open_source(tmp_path / "x.txt")) == ["a\0b.png"]


@pytest.mark.parametrize("name", ["x.tar", "x.zip", "x.npy", "x.npz", "x.txt", "x"])
def test_a_pipe_is_refused(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="expected a regular file"):
        list(open_source(tmp_path / name).entries())


@pytest.fixture
def shards(folder: Path, tmp_path: Path) -> Path:
    """Three archives of two images, the second of them damaged after the first one, and other damaged files."""
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(3):
        with tarfile.open(shards / f"{number}.tar", "w", format=tarfile.GNU_FORMAT) as tar:
            tar.add(folder / "cat.jpg", "a.jpg")
            tar.add(folder / "cat.jpg", "b.jpg")
    content = (shards / "1.tar").read_bytes()
    (shards / "1.tar").write_bytes(content.replace(b"b.jpg", b"?????"))
    for name, damaged in {"3.zip": b"PK\x03\x04", "4.npy": b"no array", "5.npz": b"", "6.tar": b"?" * 1024}.items():
        (shards / name).write_bytes(damaged)
    os.mkfifo(shards / "7.tar")
    return shards


def test_a_damaged_archive_among_others_is_an_image_that_cannot_be_read(shards: Path) -> None:
    expected = ["0.tar/a.jpg", "0.tar/b.jpg", "1.tar/a.jpg", "1.tar", "2.tar/a.jpg", "2.tar/b.jpg"]
    expected += ["3.zip", "4.npy", "5.npz", "6.tar", "7.tar"]
    names = [str(path) for path in sorted(shards.iterdir())]
    for source in (open_source(shards), open_source(f"{shards}/*"), open_source(*names)):
        assert ids(source) == expected
        reasons = {}
        for entry in source.entries():
            if "/" not in entry.id:
                assert not isinstance(entry.place, ArrayRow)
                with pytest.raises(DataError) as raised:
                    entry.place.read()
                reasons[entry.id] = str(raised.value)
        assert reasons["1.tar"].startswith("expected a whole tar archive that is not compressed: invalid header")
        assert reasons["3.zip"] == "expected a zip archive: File is not a zip file"
        assert reasons["7.tar"] == "expected a regular file"
