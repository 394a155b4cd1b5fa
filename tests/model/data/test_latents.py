"""Latents on disk are a PyTorch data set, also while they are written, and for worker processes."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from app.datasets.decode import decode_dataset
from app.datasets.encode import encode_dataset
from app.datasets.options import EncodeOptions, Hardware
from model.data import latents
from model.data.arrays import DataError
from model.errors import UserError


@pytest.fixture(scope="module")
def folder(digits: np.ndarray, digits_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("latents")
    np.save(path / "digits.npy", digits[:50, 0])
    options = EncodeOptions(samples=3, shard_size=20)
    encode_dataset(path / "digits.npy", digits_model, path / "out", options, Hardware("cpu", threads=1))
    return path / "out"


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_collated_from_all_shards(folder: Path, workers: int) -> None:
    data = latents.open(folder)
    context = "spawn" if workers else None
    loader = DataLoader(data, batch_size=32, num_workers=workers, multiprocessing_context=context)
    batches = list(loader)
    assert [len(batch["id"]) for batch in batches] == [32, 18]
    assert batches[0]["mean"].shape == batches[0]["logvar"].shape == (32, 4)
    assert batches[0]["z"].shape == (32, 3, 4)
    assert [name for batch in batches for name in batch["id"]] == list(data.ids)
    assert set(data.sizes) == {(8, 8)}


def test_the_rows_are_those_of_the_index(folder: Path) -> None:
    data = latents.open(folder)
    assert data.index.column("shard").to_pylist() == [0] * 20 + [1] * 20 + [2] * 10
    assert data[25]["id"] == "digits.npy/25"
    assert not torch.equal(data[25]["mean"], data[26]["mean"])
    assert data.recipe["samples"] == 3


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected latents of `vae encode`, with index\.parquet"):
        latents.open(tmp_path)
    (tmp_path / latents.INDEX).write_bytes(b"no table")
    with pytest.raises(DataError, match="not an index of latents"):
        latents.open(tmp_path)
    pq.write_table(latents.SCHEMA.empty_table(), tmp_path / latents.INDEX)
    with pytest.raises(DataError, match="not an index of latents"):
        latents.open(tmp_path)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_an_index_that_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / latents.INDEX)
    with pytest.raises(DataError, match=r"index\.parquet: expected a regular file"):
        latents.open(tmp_path)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copied"))


def set_value(path: Path, column: str, value: Any) -> None:
    """Set the value of the fourth row of an index."""
    table = pq.read_table(path)
    values = table.column(column).to_pylist()
    values[3] = value
    field = table.schema.field(column)
    changed = table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))
    pq.write_table(changed, path)


def refused(folder: Path, model: Path, name: str) -> str:
    """Return the error of decoding a folder, and of encoding into it: one line that names the file."""
    with pytest.raises(UserError) as decoded:
        decode_dataset(folder, model, folder.parent / "images", hardware=Hardware("cpu", threads=1))
    message = str(decoded.value)
    assert len(message.splitlines()) == 1
    assert f"{folder / name}: " in message
    options = EncodeOptions(samples=3, shard_size=20)
    np.save(folder.parent / "new.npy", np.zeros((1, 8, 8), np.uint8))
    if "NaN" not in message and "5000" not in message:  # of no concern for further images
        with pytest.raises(UserError, match=name):
            encode_dataset(folder.parent / "new.npy", model, folder, options, Hardware("cpu", threads=1))
    return message


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("id", value) for value in (None, "", "..", "/", ".", "//", "../..", "x" * 5000, "digits.npy/1")),
        *(("shard", value) for value in (None, -1, 9)),
        *(("row", value) for value in (None, -1)),
        *(("height", value) for value in (None, 0, -1)),
        ("width", 0),
        ("bytes", None),
        ("modified", None),
    ],
)
def test_rows_with_impossible_values_are_refused(copied: Path, digits_model: Path, column: str, value: Any) -> None:
    set_value(copied / latents.INDEX, column, value)
    assert "expected" in refused(copied, digits_model, latents.INDEX)


@pytest.mark.parametrize(("column", "value"), [("row", 20), ("height", 9)])
def test_rows_that_a_shard_lacks_are_refused(copied: Path, digits_model: Path, column: str, value: int) -> None:
    set_value(copied / latents.INDEX, column, value)
    assert "expected" in refused(copied, digits_model, "latents-00000.safetensors")


def without(name: str) -> Any:
    return lambda metadata: metadata["recipe"].pop(name) and metadata


@pytest.mark.parametrize(
    "change",
    [
        lambda _: [],
        lambda _: 5,
        lambda _: {},
        lambda metadata: {"shards": metadata["shards"]},
        lambda metadata: {"recipe": metadata["recipe"]},
        lambda metadata: {**metadata, "shard_size": 0},
        lambda metadata: {**metadata, "shard_size": "20"},
        lambda metadata: {**metadata, "recipe": "digits"},
        lambda metadata: {**metadata, "recipe": {"digest": metadata["recipe"]["digest"]}},
        *(
            lambda metadata, shards=shards: {**metadata, "shards": shards}
            for shards in ("3", None, 2.0, True, -1, 2**40)
        ),
        *(
            lambda metadata, field=field: {**metadata, "recipe": {**metadata["recipe"], **field}}
            for field in ({"samples": -1}, {"samples": "3"}, {"dtype": "int8"}, {"sizes": [8]}, {"scaled": 1})
        ),
        without("model"),
    ],
)
def test_metadata_of_another_kind_are_refused(copied: Path, digits_model: Path, change: Any) -> None:
    table = pq.read_table(copied / latents.INDEX)
    metadata = json.dumps(change(json.loads(table.schema.metadata[latents.METADATA])))
    pq.write_table(table.replace_schema_metadata({latents.METADATA: metadata}), copied / latents.INDEX)
    assert "not an index of latents" in refused(copied, digits_model, latents.INDEX)


@pytest.mark.parametrize("metadata", ["[" * 100_000, b"\xff", "", "NaN"])
def test_metadata_that_are_no_json_are_refused(copied: Path, digits_model: Path, metadata: str) -> None:
    table = pq.read_table(copied / latents.INDEX)
    pq.write_table(table.replace_schema_metadata({latents.METADATA: metadata}), copied / latents.INDEX)
    assert "not an index of latents" in refused(copied, digits_model, latents.INDEX)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x02" + bytes(7) + b"[]", b"\x02" + bytes(7) + b"{}"])
def test_shards_that_are_no_tensors_are_refused(copied: Path, digits_model: Path, content: bytes) -> None:
    (copied / "latents-00001.safetensors").write_bytes(content)
    refused(copied, digits_model, "latents-00001.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"mean": torch.zeros(20, 7)},
        {"mean": torch.zeros(20, 7), "logvar": torch.zeros(20, 7), "z": torch.zeros(20, 3, 7)},
        {"mean": torch.zeros(5)},
        {"mean": torch.zeros(())},
        {"mean": torch.zeros(19, 4), "logvar": torch.zeros(19, 4), "z": torch.zeros(19, 3, 4)},
        {"mean": torch.zeros(20, 4, dtype=torch.float64)},
        {"mean": torch.zeros(20, 4, dtype=torch.int32)},
        {"logvar": torch.zeros(20)},
        {"z": torch.zeros(20, 2, 4)},
        {"mean": None},
        {"z": None},
        {"mean": torch.full((20, 4), torch.nan)},
        {"mean": torch.full((20, 4), torch.inf)},
    ],
)
def test_shards_with_other_tensors_are_refused(copied: Path, digits_model: Path, change: dict[str, Any]) -> None:
    path = copied / "latents-00001.safetensors"
    tensors = {name: values.clone() for name, values in load_file(path).items()} | change
    save_file({name: values for name, values in tensors.items() if values is not None}, path)
    assert "expected" in refused(copied, digits_model, path.name)
