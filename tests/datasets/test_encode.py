"""Data sets are encoded as the service encodes their images, in any order of interruptions, and never twice."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from app.codecs.png import write_png
from app.datasets.encode import EncodeSummary, encode_dataset
from app.datasets.latent_encoder import seed_of
from app.datasets.options import EncodeOptions, Hardware, Progress
from model.data import latents
from model.data.arrays import DataError
from model.errors import OptionsError, UserError
from model.formats import load
from tests.support.image_folders import NAMES, image, write_images, write_named
from tests.support.in_thread_server import listening
from tests.support.models import LARGE, write

CPU = Hardware("cpu", threads=2)


def encode(source: Any, model: Any, out: Path, progress: Any = None, **options: Any) -> EncodeSummary:
    return encode_dataset(source, model, out, EncodeOptions(**options), CPU, progress)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def index(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in pq.read_table(folder / latents.INDEX).to_pylist()}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(tmp_path / "images", 40, broken=10)
    write_named(tmp_path / "images")
    return tmp_path / "images"


def test_each_image_has_a_row_with_its_place_and_what_was_wrong(images: Path, colour_model: Path, tmp_path: Path):
    summary = encode(images, colour_model, tmp_path / "out", shard_size=20)
    assert (summary.encoded, summary.unreadable, summary.contents) == (44, 4, (48, 4, 3))
    rows = index(tmp_path / "out")
    assert set(NAMES) < set(rows)
    broken, whole = rows["0/0000.png"], rows["猫/白 猫.webp"]
    assert broken["shard"] is broken["row"] is None
    assert "damaged" in broken["error"] or "expected" in broken["error"]
    assert whole["error"] is None
    assert (whole["height"], whole["width"], whole["source_height"], whole["source_width"]) == (13, 9, 9, 13)
    assert len({(row["shard"], row["row"]) for row in rows.values() if not row["error"]}) == 44
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".parquet", ".safetensors"}


@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("model", ["digits_model", "colour_model"])
def test_latents_are_those_of_the_service_bit_for_bit(request, images: Path, model: str, tmp_path: Path, samples: int):
    folder = request.getfixturevalue(model)
    encode(images, folder, tmp_path / "out", samples=samples, fit="crop", seed=7)
    data = latents.open(tmp_path / "out")
    assert len(data) == 44
    with listening(model=folder, device="cpu", threads=1) as url, httpx.Client(base_url=url, timeout=60) as client:
        while client.get("/readyz").status_code != 200:
            pass
        for item in data:
            query = {"fit": "crop"} | ({"samples": samples, "seed": seed_of(7, item["id"])} if samples else {})
            content = (images / item["id"]).read_bytes()
            answer = client.post("/encode", params=query, content=content).json()["latents"][0]
            for name in ("mean", "logvar", *(["z"] if samples else [])):
                np.testing.assert_array_equal(np.float32(answer[name]), item[name].numpy())


def test_rows_of_arrays_have_the_latents_of_the_same_image_files(digits, digits_model: Path, tmp_path: Path):
    np.save(tmp_path / "x.npy", digits[:30, 0])
    (tmp_path / "images").mkdir()
    for row, pixels in enumerate(digits[:30]):
        (tmp_path / "images" / f"{row:02d}.png").write_bytes(write_png(pixels))
    for name in ("x.npy", "images"):
        encode(tmp_path / name, digits_model, tmp_path / f"out-{name}", shard_size=8)
    rows, of_files = (latents.open(tmp_path / f"out-{name}") for name in ("x.npy", "images"))
    assert all(torch.equal(one["mean"], other["mean"]) for one, other in zip(rows, of_files, strict=True))


def test_the_result_does_not_depend_on_threads_and_batches(images: Path, colour_model: Path, tmp_path: Path):
    for number, (threads, batch) in enumerate([(1, 0), (3, 5), (2, 1)]):
        hardware = Hardware("cpu", threads=threads, batch_size=batch)
        encode_dataset(images, colour_model, tmp_path / str(number), EncodeOptions(shard_size=15), hardware)
    assert files(tmp_path / "0") == files(tmp_path / "1") == files(tmp_path / "2")


def test_a_second_run_encodes_what_is_new_or_changed(images: Path, colour_model: Path, tmp_path: Path):
    out = tmp_path / "out"
    encode(images, colour_model, out, shard_size=20)
    before = files(out)
    again = encode(images, colour_model, out)
    assert (again.encoded, again.unreadable, again.unchanged, again.still_unreadable) == (0, 0, 44, 4)
    assert files(out) == before
    image(99).save(images / "new.png")
    image(98).save(images / "1" / "0001.png")
    summary = encode(images, colour_model, out)
    assert (summary.encoded, summary.unchanged, summary.still_unreadable, summary.contents.images) == (2, 43, 4, 49)
    assert {name: content for name, content in files(out).items() if name in before and name != latents.INDEX} == {
        name: content for name, content in before.items() if name != latents.INDEX
    }
    encode(images, colour_model, tmp_path / "fresh")
    found = {item["id"]: item["mean"] for item in latents.open(out)}
    assert all(torch.equal(found[item["id"]], item["mean"]) for item in latents.open(tmp_path / "fresh"))


def test_verify_looks_at_the_content_alone(images: Path, colour_model: Path, tmp_path: Path):
    out = tmp_path / "out"
    encode(images, colour_model, out)
    path = images / "cat.jpg"
    os.utime(path, ns=(1, 1))
    assert encode(images, colour_model, out, verify=True).encoded == 0
    assert encode(images, colour_model, out).encoded == 0  # the index has the new time
    found = path.stat()
    content = bytearray(path.read_bytes())
    content[-30] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert encode(images, colour_model, out).encoded == 0
    assert encode(images, colour_model, out, verify=True).encoded == 1


def test_unreadable_images_are_tried_again_when_asked(images: Path, colour_model: Path, tmp_path: Path):
    out = tmp_path / "out"
    encode(images, colour_model, out)
    assert encode(images, colour_model, out).unreadable == 0
    summary = encode(images, colour_model, out, retry=True)
    assert (summary.unreadable, summary.still_unreadable, summary.contents) == (4, 0, (48, 4, 1))


def test_a_damaged_archive_among_shards_has_a_row_with_the_reason(images: Path, colour_model: Path, tmp_path: Path):
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(3):
        with zipfile.ZipFile(shards / f"{number}.zip", "w") as archive:
            archive.write(images / "cat.jpg", "cat.jpg")
    whole = (shards / "1.zip").read_bytes()
    (shards / "1.zip").write_bytes(whole[:-30])
    summary = encode(shards, colour_model, tmp_path / "out")
    assert (summary.encoded, summary.unreadable) == (2, 1)
    rows = index(tmp_path / "out")
    assert [*rows] == ["0.zip/cat.jpg", "1.zip", "2.zip/cat.jpg"]
    assert rows["1.zip"]["error"] == "expected a zip archive: File is not a zip file"
    with pytest.raises(DataError, match=r"1\.zip: expected a zip archive: .*strict"):
        encode(shards, colour_model, tmp_path / "strict", strict=True)
    (shards / "1.zip").write_bytes(whole)
    repaired = encode(shards, colour_model, tmp_path / "out")
    assert (repaired.encoded, repaired.unchanged, repaired.still_unreadable) == (1, 2, 0)


def test_strict_stops_at_an_unreadable_image(images: Path, colour_model: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"0000\.png: .*strict"):
        encode(images, colour_model, tmp_path / "out", strict=True)


@pytest.mark.parametrize("changed", [{"dtype": "float16"}, {"fit": "pad"}, {"samples": 1}])
def test_latents_of_other_options_are_not_mixed(images: Path, colour_model: Path, tmp_path: Path, changed):
    encode(images, colour_model, tmp_path / "out")
    ((name, value),) = changed.items()
    with pytest.raises(DataError, match=rf"has latents with {name} .* got {value}"):
        encode(images, colour_model, tmp_path / "out", **changed)
    assert encode(images, colour_model, tmp_path / "out").unchanged == 44  # the folder is not locked any more


def test_a_folder_keeps_the_size_of_its_shards(images: Path, colour_model: Path, tmp_path: Path):
    out = tmp_path / "out"
    encode(images, colour_model, out, shard_size=20)
    with pytest.raises(OptionsError, match=r"shard_size: expected 20, as .*out has it, got 30"):
        encode(images, colour_model, out, shard_size=30)
    write_images(images / "new", 50)
    assert encode(images, colour_model, out).contents.shards == 3 + 3
    assert max(row["row"] for row in index(out).values() if not row["error"]) < 20
    assert encode(images, colour_model, out, shard_size=20).encoded == 0
    encode(images, colour_model, tmp_path / "default")
    with pytest.raises(OptionsError, match=r"shard_size: expected 4096, .* got 20"):
        encode(images, colour_model, tmp_path / "default", shard_size=20)


def test_latents_of_other_models_are_not_mixed(images: Path, digits_model: Path, colour_model: Path, tmp_path: Path):
    encode(images, colour_model, tmp_path / "out")
    with pytest.raises(DataError, match=r"has latents with model colour:.* got digits:"):
        encode(images, digits_model, tmp_path / "out")


def test_types_and_units_are_those_asked_for(images: Path, colour_model: Path, tmp_path: Path):
    exact = {"float32": 0.0, "float16": 1e-2, "bfloat16": 1e-1}
    for dtype in exact:
        encode(images, colour_model, tmp_path / dtype, dtype=dtype)
    data = {dtype: latents.open(tmp_path / dtype) for dtype in exact}
    for dtype, tolerance in exact.items():
        assert data[dtype][3]["mean"].dtype == getattr(torch, dtype)
        torch.testing.assert_close(data[dtype][3]["mean"].float(), data["float32"][3]["mean"], atol=tolerance, rtol=0)


def test_options_that_do_not_fit_are_refused(images: Path, colour_model: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"samples: expected 0 to 4096, got -1"):
        encode(images, colour_model, tmp_path / "out", samples=-1)
    with pytest.raises(UserError, match=r"bucket 8x8: height: expected 13"):
        encode(images, colour_model, tmp_path / "out", buckets=((8, 8),))


def test_progress_counts_all_images(images: Path, colour_model: Path, tmp_path: Path):
    steps: list[Progress] = []
    encode(images, colour_model, tmp_path / "out", steps.append, shard_size=7)
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert (steps[-1].done, steps[-1].total, steps[-1].unreadable) == (48, 48, 4)
    assert 0 <= steps[-1].waited <= 1


COMMAND = """
import sys
import tarfile
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from app.datasets.encode import encode_dataset
from app.datasets.options import EncodeOptions, Hardware
encode_dataset(*sys.argv[1:4], EncodeOptions(shard_size=6), Hardware("cpu", threads=1, batch_size=4))
"""


def killed_after(shards: int, seconds: float, *arguments: str | Path) -> int:
    """Run the command, and kill it so many seconds after the folder has so many shards; return its exit code."""
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *map(str, arguments)], stderr=subprocess.DEVNULL)
    out = Path(arguments[-1])
    while process.poll() is None and len(list(out.glob("index-*.parquet"))) < shards:
        time.sleep(0.005)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    return process.wait()


@pytest.mark.slow
def test_a_run_that_is_killed_five_times_gives_the_same_bytes(tmp_path: Path):
    model, source, out = write(tmp_path / "model", LARGE), tmp_path / "images", tmp_path / "out"
    source.mkdir()
    for number in range(96):
        image(number, 90, 80).save(source / f"{number:04d}.jpg")
    for number in range(0, 96, 30):
        (source / f"{number:04d}.jpg").write_bytes(b"broken")
    encode_dataset(source, model, tmp_path / "whole", EncodeOptions(shard_size=6), CPU)
    random = Random(0)
    for shards in sorted(random.sample(range(1, 9), 5)):
        assert killed_after(shards, random.uniform(0, 0.1), source, model, out) == -signal.SIGKILL
        assert len(list(out.glob("index-*.parquet"))) >= shards
    assert killed_after(1000, 0, source, model, out) == 0
    assert files(out) == files(tmp_path / "whole")


def test_a_full_disk_leaves_whole_shards_and_a_clear_error(images: Path, colour_model: Path, tmp_path: Path):
    out = tmp_path / "out"
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, resource.RLIM_INFINITY)); {COMMAND}"
    process = subprocess.run(
        [sys.executable, "-c", code.replace("shard_size=6", "shard_size=48"), images, colour_model, out],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "VAE_RUNTIME": "torch"},  # ONNX Runtime reads its graphs from files in memory
    )
    assert "latents-00000.safetensors" in process.stderr
    assert "File too large" in process.stderr
    assert list(out.iterdir()) == []
    encode(images, colour_model, out, shard_size=48)
    encode(images, colour_model, tmp_path / "whole", shard_size=48)
    assert files(out) == files(tmp_path / "whole")


def test_temporary_files_of_a_run_that_was_killed_are_removed_and_others_left(
    images: Path, colour_model: Path, tmp_path: Path
):
    out = tmp_path / "out"
    (out / f"{latents.shard_name(0)}.00c0ffee.partial").mkdir(parents=True)
    (out / f"{latents.shard_name(0)}.0123abcd.partial").write_bytes(b"of a run that was killed")
    (out / latents.shard_name(0)).write_bytes(b"of a run that was killed before it wrote the index")
    assert encode(images, colour_model, out).encoded == 44
    (out / "y.partial").write_bytes(b"a download")
    assert encode(images, colour_model, out).encoded == 0
    assert {path.name for path in out.glob("*.partial")} == {f"{latents.shard_name(0)}.00c0ffee.partial", "y.partial"}


@pytest.mark.parametrize("name", ["photo.jpg", "y.partial", "latents.safetensors", "recipe.json"])
def test_a_folder_with_files_of_others_is_refused(images: Path, digits_model: Path, tmp_path: Path, name: str):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".hidden").write_bytes(b"")
    for each in (name, "z"):
        (out / each).write_bytes(b"of others")
    before = files(out)
    with pytest.raises(OptionsError, match=rf"out: expected a new or empty folder.*; .*out has '{name}' and 1 more"):
        encode(images, digits_model, out)
    assert files(out) == before


@pytest.mark.parametrize("name", [latents.INDEX, latents.shard_name(1), latents.part_name(0)])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_under_the_name_of_one_is_refused(
    images: Path, digits_model: Path, tmp_path: Path, name: str, make: Any
):
    (tmp_path / "out").mkdir()
    make(tmp_path / "out" / name)
    with pytest.raises(OptionsError, match=rf"{name}: expected a regular file"):
        encode(images, digits_model, tmp_path / "out")


def test_links_in_the_folder_are_replaced_and_what_they_lead_to_is_kept(
    images: Path, digits_model: Path, tmp_path: Path
):
    (tmp_path / "out").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"of others")
    (tmp_path / "out" / latents.shard_name(0)).symlink_to(elsewhere)
    encode(images, digits_model, tmp_path / "out")
    assert elsewhere.read_bytes() == b"of others"
    assert len(latents.open(tmp_path / "out")) == 44


@pytest.mark.slow
def test_a_process_for_each_device_gives_the_same_bytes(images: Path, colour_model: Path, tmp_path: Path):
    hardware, options = Hardware("cpu,cpu", threads=1), EncodeOptions(shard_size=10)
    steps: list[Progress] = []
    summary = encode_dataset(images, colour_model, tmp_path / "two", options, hardware, steps.append)
    assert (summary.encoded, summary.unreadable, summary.contents) == (44, 4, (48, 4, 5))
    assert (steps[-1].done, steps[-1].total) == (48, 48)
    encode(images, colour_model, tmp_path / "one", shard_size=10)
    assert files(tmp_path / "two") == files(tmp_path / "one")
    with pytest.raises(UserError, match="strict"):
        encode_dataset(images, colour_model, tmp_path / "strict", EncodeOptions(strict=True), hardware)


def test_several_devices_need_the_folder_of_the_model(images: Path, colour_model: Path, tmp_path: Path):
    with pytest.raises(UserError, match="expected the model by its folder"):
        encode_dataset(images, load(colour_model), tmp_path / "out", hardware=Hardware("cpu,cpu"))


@pytest.mark.slow
def test_ctrl_c_leaves_whole_shards_and_the_same_command_continues(tmp_path: Path):
    model, source, out = write(tmp_path / "model", LARGE), tmp_path / "images", tmp_path / "out"
    source.mkdir()
    for number in range(60):
        image(number, 90, 80).save(source / f"{number:04d}.png")
        for copy in range(1, 12):  # so many that the signal comes before the end
            os.link(source / f"{number:04d}.png", source / f"{number:04d}-{copy:02d}.png")
    options = ["--shard-size", "6", "--batch-size", "3", "--threads", "1", "--device", "cpu"]
    # a shell ignores the signal for jobs in the background
    handle_interrupt = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    start = f"{handle_interrupt}; from app.__main__ import main; main()"
    command = [sys.executable, "-c", start, "encode", source, "--model", model, "--out", out, *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(out.glob("index-*.parquet")):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130, messages
    assert messages.endswith("is complete up to here, the same command continues it\n")
    assert list(out.glob("*.partial")) == []
    found = len(latents.open(out))
    assert found % 6 == 0
    assert 0 < found < 720
    assert subprocess.run(command, check=False).returncode == 0
    encode(source, model, tmp_path / "whole", shard_size=6)
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_of_an_archive_is_recorded(digits_model: Path, tmp_path: Path, method: int):
    write_images(tmp_path / "images", 1)
    content = (tmp_path / "images" / "0" / "0000.png").read_bytes()
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("bad.png", content)
        archive.writestr("good.png", content)
    start = 30 + len("bad.png")  # of the data
    path.write_bytes(path.read_bytes()[:start] + b"\xff" * 20 + path.read_bytes()[start + 20 :])
    summary = encode(path, digits_model, tmp_path / "out")
    assert (summary.encoded, summary.unreadable) == (1, 1)
    assert index(tmp_path / "out")["x.zip/bad.png"]["error"]


@pytest.mark.parametrize("year", [1900, 2500])
def test_an_image_with_any_time_is_encoded(digits_model: Path, tmp_path: Path, year: int):
    (path,) = write_images(tmp_path / "images", 1)
    seconds = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tar.gettarinfo(path)
        info.mtime = seconds
        tar.addfile(info, io.BytesIO(path.read_bytes()))
    assert encode(tmp_path / "x.tar", digits_model, tmp_path / "out").encoded == 1


def test_a_line_that_names_no_file_is_recorded(digits_model: Path, tmp_path: Path):
    write_images(tmp_path, 1)
    (tmp_path / "x.txt").write_bytes(b"a\0b.png\n0/0000.png\n" + b"c" * 300 + b".png\n")
    summary = encode(tmp_path / "x.txt", digits_model, tmp_path / "out")
    assert (summary.encoded, summary.unreadable) == (1, 2)
