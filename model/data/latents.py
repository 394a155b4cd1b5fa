"""Latents of a data set on disk: shards in the safetensors format, and an index in Parquet with a row for each image.

A folder holds `index.parquet` and the shards `latents-00000.safetensors`, as `vae encode` writes them. While it runs,
each shard has an index of its own, `index-00000.parquet`; those are read as well, so that the folder can be used after
an interruption. Needs pyarrow, the extra `datasets`.

    data = latents.open("photos-latents")
    for batch in DataLoader(data, batch_size=256, shuffle=True): ...
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from torch import Tensor

from model.data.arrays import DataError

INDEX = "index.parquet"
METADATA = b"vae"
"""Key of the metadata of an index: a JSON object with `recipe`, and with `shards`, the number of the next shard."""

MEAN, LOGVAR, DRAWS = "mean", "logvar", "z"

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("source_height", pa.int32()),
        ("source_width", pa.int32()),
        ("bytes", pa.int64()),
        ("modified", pa.int64()),
        ("digest", pa.string()),
        ("seed", pa.int64()),
        ("error", pa.string()),
    ]
)
"""The columns of an index.

`id` is the relative path of the image, `height` and `width` its size as it was encoded, the others that of the file;
`modified` is in nanoseconds since 1970, `digest` the SHA-256 of the content, `seed` that of the draws. An image that
could not be read has an `error`, and neither shard nor row.
"""


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"latents-{number:05d}.safetensors"


def part_name(number: int) -> str:
    """Return the file name of the index of one shard."""
    return f"index-{number:05d}.parquet"


def tensor_name(name: str, size: tuple[int, int], sizes: int) -> str:
    """Return the name of a tensor in a shard with latents of images of so many sizes; of one size it is `name`."""
    return name if sizes == 1 else f"{name}.{size[0]}x{size[1]}"


def read_index(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """Read an index and its metadata. Raises `DataError` for a file that is no index of latents."""
    try:
        table = pq.read_table(path)
        metadata = json.loads((table.schema.metadata or {})[METADATA])
        return table.select(SCHEMA.names).cast(SCHEMA), metadata
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: not an index of latents: {str(error).splitlines()[0]}") from None


def part_numbers(folder: Path) -> list[int]:
    """Return the numbers of the shards that have an index of their own, in order."""
    names = (path.stem.removeprefix("index-") for path in folder.glob("index-*.parquet"))
    return sorted(int(name) for name in names if name.isdecimal())


def read_indices(folder: Path, numbers: Sequence[int] | None = None) -> tuple[pa.Table, dict[str, Any]]:
    """Read `index.parquet` and the indices of further shards as one, with the metadata of the first.

    `numbers` are those of the further shards, by default all. Of several rows with one id the last counts. Raises
    `DataError` for a folder without latents.
    """
    joined = [read_index(folder / INDEX)] if (folder / INDEX).exists() else []
    merged = joined[0][1]["shards"] if joined else 0
    found = part_numbers(folder) if numbers is None else numbers
    parts = [read_index(folder / part_name(number)) for number in found if number >= merged]
    if not joined and not parts:
        raise DataError(f"{folder}: expected latents of `vae encode`, with {INDEX}; there is none")
    tables = [table for table, _ in (*joined, *parts)]
    return _last_of_each_id(pa.concat_tables(tables)), (joined or parts)[0][1]


def _last_of_each_id(table: pa.Table) -> pa.Table:
    """Return the last row of each id, in order; without an object of Python for each of perhaps millions."""
    ids = table.column("id")
    if pa.compute.count_distinct(ids).as_py() == len(table):
        return table
    rows = pa.table({"id": ids, "row": pa.array(range(len(table)), pa.int64())})
    last = rows.group_by("id").aggregate([("row", "max")]).column("row_max")
    return table.take(last.take(pa.compute.sort_indices(last)))


class Latents(torch.utils.data.Dataset[dict[str, Any]]):
    """The latents in a folder as a PyTorch `Dataset`, in the order of the index; the shards are mapped into memory.

    An item is a dict of `id`, `mean` [*latent], and, if the folder has them, `logvar` [*latent] and the draws `z`
    [L, *latent]. `recipe` says how they were encoded: digest of the model, fit, sizes, type, units. `index` is the
    table of the images that have latents.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        table, metadata = read_indices(self.folder)
        self.recipe: Mapping[str, Any] = metadata["recipe"]
        self.index = table.filter(pa.compute.is_null(table.column("error")))
        self._places = [self.index.column(name).to_numpy() for name in ("shard", "row", "height", "width")]
        self._ids = self.index.column("id")
        self._shards: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> dict[str, Any]:
        shard, row, height, width = (int(column[number]) for column in self._places)
        tensors = self._tensors(shard)
        several = f"{MEAN}.{height}x{width}" in tensors
        names = {name: tensor_name(name, (height, width), 2 if several else 1) for name in (MEAN, LOGVAR, DRAWS)}
        found = {name: tensors[stored][row] for name, stored in names.items() if stored in tensors}
        return {"id": self._ids[number].as_py(), **found}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[number] for number in range(len(self)))

    @property
    def ids(self) -> Sequence[str]:
        """The relative paths of the images."""
        found: list[str] = self._ids.to_pylist()
        return found

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        """The size (H, W) of each image as it was encoded: a batch can hold latents of one size alone."""
        return list(zip(*(column.tolist() for column in self._places[2:]), strict=True))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": {}}  # a worker process maps the files itself

    def _tensors(self, shard: int) -> dict[str, Tensor]:
        if shard not in self._shards:
            with safe_open(self.folder / shard_name(shard), framework="pt") as file:
                self._shards[shard] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        return self._shards[shard]


def open(folder: str | Path) -> Latents:  # noqa: A001  # read as latents.open
    """Open the latents in a folder. Raises `DataError` for a folder without latents."""
    return Latents(folder)
