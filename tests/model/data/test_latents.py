"""Latents on disk are a PyTorch data set, also while they are written, and for worker processes."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

from app.datasets.encode import encode_dataset
from app.datasets.options import EncodeOptions, Hardware
from model.data import latents
from model.data.arrays import DataError


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
