"""Latents of a data set on disk: shards in the safetensors format, and an index in Parquet with a row for each image.

A folder holds `index.parquet` and the shards `latents-00000.safetensors`, as `vae encode` writes them. While it runs,
each shard has an index of its own, `index-00000.parquet`; those are read as well, so that the folder can be used after
an interruption. Needs pyarrow, the extra `datasets`.

    data = latents.open("photos-latents")
    for batch in DataLoader(data, batch_size=256, shuffle=True): ...
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.data.arrays import MAX_ID_BYTES, DataError
from model.files import check_weights_file, parse_json

LatentsOf = Callable[[int, int], tuple[int, ...]]
"""The shape of the latent of an image of a size (H, W); raises `ValueError` for a size that a model does not take."""

INDEX = "index.parquet"
METADATA = b"vae"
"""Key of the metadata of an index: a JSON object.

It has `recipe`; `shards`, the number of the next shard; and `shard_size`, the most images that one shard covers.
"""

MEAN, LOGVAR, DRAWS = "mean", "logvar", "z"

STORED_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Types of latents, by the names of torch and of the safetensors format."""

RECIPE_FIELDS: Mapping[str, tuple[type, ...]] = {
    "format": (int,),
    "model": (str,),
    "digest": (str,),
    "precision": (str,),
    "channels": (int,),
    "sizes": (list,),
    "fit": (str,),
    "samples": (int,),
    "seed": (int, type(None)),
    "dtype": (str,),
    "scaled": (bool,),
}
"""Fields of a recipe, and their types."""

MAX_SHARDS = 2**31 - 1
NO_FILE = r"^(?:\.{0,2}[/\\]+)*\.{0,2}$"
"""Regular expression of paths that name no file: empty, or of `.` and `..` alone."""

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


def tensor_names(stored: Container[str], size: tuple[int, int]) -> dict[str, str]:
    """Return the names of the tensors of means, log-variances and draws in a shard, for images of one size."""
    several = f"{MEAN}.{size[0]}x{size[1]}" in stored
    return {name: tensor_name(name, size, 2 if several else 1) for name in (MEAN, LOGVAR, DRAWS)}


def read_index(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """Read and check an index and its metadata. Raises `DataError` for a file that is no index of latents."""
    if path.exists() and not path.is_file():  # pyarrow reads all files of a folder, and waits for those of a pipe
        raise DataError(f"{path}: expected a regular file")
    try:
        table = pq.read_table(path)
        metadata = _checked_metadata(parse_json((table.schema.metadata or {})[METADATA]))
        found = table.select(SCHEMA.names).cast(SCHEMA)
        found.validate(full=True)
        _check_rows(found, metadata["shards"])
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: not an index of latents: {cause}") from None
    return found, metadata


def _checked_metadata(metadata: Any) -> dict[str, Any]:
    """Return the metadata of an index. Raises `ValueError` for a field that is missing or of another type."""
    _check_fields("metadata", metadata, {"recipe": (dict,), "shards": (int,)})
    if not 0 <= metadata["shards"] <= MAX_SHARDS:
        raise ValueError(f"shards: expected 0 to {MAX_SHARDS}, got {metadata['shards']}")
    if "shard_size" in metadata:
        _check_fields("metadata", metadata, {"shard_size": (int,)})
        if metadata["shard_size"] < 1:
            raise ValueError(f"shard_size: expected 1 or more, got {metadata['shard_size']}")
    recipe = metadata["recipe"]
    _check_fields("recipe", recipe, RECIPE_FIELDS)
    if recipe["dtype"] not in STORED_TYPES:
        raise ValueError(f"recipe: dtype: expected {', '.join(STORED_TYPES)}, got {recipe['dtype']!r:.40}")
    if recipe["samples"] < 0:
        raise ValueError(f"recipe: samples: expected 0 or more, got {recipe['samples']}")
    if not all(isinstance(size, list) and [type(side) for side in size] == [int, int] for size in recipe["sizes"]):
        raise ValueError(f"recipe: sizes: expected pairs of height and width, got {recipe['sizes']!r:.40}")
    return dict(metadata)


def _check_fields(name: str, found: Any, fields: Mapping[str, tuple[type, ...]]) -> None:
    """Raise `ValueError` unless a value is an object with fields of these types."""
    if not isinstance(found, dict):
        raise ValueError(f"{name}: expected an object, got {type(found).__name__}")  # noqa: TRY004  # of a file
    for field, types in fields.items():
        if field not in found:
            raise ValueError(f"{name}: expected the field {field}, which is missing")
        if type(found[field]) not in types:  # a bool is an int
            expected = " or ".join(each.__name__ for each in types)
            raise ValueError(f"{name}: {field}: expected {expected}, got {type(found[field]).__name__}")


def _check_rows(table: pa.Table, shards: int) -> None:
    """Raise `ValueError` for an id that names no file, or for latents at no possible place."""
    for name in ("id", "bytes", "modified"):
        _check_values(name, table, pa.compute.is_valid(table.column(name)))
    encoded = table.filter(pa.compute.is_null(table.column("error")))
    ids = encoded.column("id")  # an image that could not be read may have any, for example of a line in a list
    _check_values("id", encoded, pa.compute.invert(pa.compute.match_substring_regex(ids, NO_FILE)))
    for name, lowest, end in (("shard", 0, shards), ("row", 0, 2**31), ("height", 1, 2**31), ("width", 1, 2**31)):
        column = encoded.column(name)
        within = pa.compute.and_(pa.compute.greater_equal(column, lowest), pa.compute.less(column, end))
        _check_values(name, encoded, within, f"{lowest} to {end - 1}")


def _check_values(name: str, table: pa.Table, valid: pa.ChunkedArray, expected: str = "") -> None:
    """Raise `ValueError` for the first value of a column that is null or not valid."""
    position = pa.compute.index(pa.compute.fill_null(valid, False), False).as_py()
    if position >= 0:
        expected = expected or ("the path of an image" if name == "id" else "a number")
        got, row = table.column(name)[position].as_py(), table.column("id")[position].as_py()
        raise ValueError(f"{name}: expected {expected}, got {got!r:.40} for the image {row!r:.80}")


def part_numbers(folder: Path) -> list[int]:
    """Return the numbers of the shards that have an index of their own, in order."""
    names = (path.stem.removeprefix("index-") for path in folder.glob("index-*.parquet"))
    return sorted(int(name) for name in names if name.isdecimal())


def read_indices(folder: Path, numbers: Sequence[int] | None = None) -> tuple[pa.Table, dict[str, Any]]:
    """Read `index.parquet` and the indices of further shards as one, with the metadata of the first.

    `numbers` are those of the further shards, by default all. Of several rows with one id the last counts. Raises
    `DataError` for a folder without latents.
    """
    joined = [_with_unique_ids(folder / INDEX)] if (folder / INDEX).exists() else []
    merged = joined[0][1]["shards"] if joined else 0
    found = part_numbers(folder) if numbers is None else numbers
    parts = [read_index(folder / part_name(number)) for number in found if number >= merged]
    if not joined and not parts:
        raise DataError(f"{folder}: expected latents of `vae encode`, with {INDEX}; there is none")
    tables = [table for table, _ in (*joined, *parts)]
    metadata = (joined or parts)[0][1]
    if any(_identity(other) != _identity(metadata) for _, other in parts):
        raise DataError(f"{folder}: expected latents of one recipe in all indices, got several")
    return _last_of_each_id(pa.concat_tables(tables)), metadata


def _identity(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe without the name of the model, which has a digest."""
    return {name: value for name, value in metadata["recipe"].items() if name != "model"}


def _with_unique_ids(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    table, metadata = read_index(path)
    if (distinct := pa.compute.count_distinct(table.column("id")).as_py()) != len(table):
        raise DataError(f"{path}: expected an id for each of {len(table)} images, got {distinct} different ones")
    return table, metadata


def check_shards(
    folder: Path,
    table: pa.Table,
    recipe: Mapping[str, Any],
    latents_of: LatentsOf | None = None,
) -> None:
    """Check that the shards of an index have its rows, by their headers.

    Without `latents_of` any shape of a latent is right. Raises `DataError` for a shard that is missing, damaged, or has
    tensors of another shape or type.
    """
    encoded = table.filter(pa.compute.is_null(table.column("error")))
    places = encoded.group_by(["shard", "height", "width"]).aggregate([("row", "max")]).to_pylist()
    for number, group in groupby(sorted(places, key=itemgetter("shard")), itemgetter("shard")):
        path = folder / shard_name(number)
        check_weights_file(path)
        try:
            with safe_open(path, framework="pt") as file:
                found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # no mapping
                for place in group:
                    _check_tensors(found, (place["height"], place["width"]), place["row_max"] + 1, recipe, latents_of)
        except (OSError, ValueError, SafetensorError) as error:
            raise DataError(f"{path}: not a shard of its index: {str(error).splitlines()[0]}") from None


def _check_tensors(
    found: Mapping[str, Any],
    size: tuple[int, int],
    rows: int,
    recipe: Mapping[str, Any],
    latents_of: LatentsOf | None,
) -> None:
    """Raise `ValueError` unless the tensors of a shard have so many rows of latents of images of one size."""
    if recipe["sizes"] and list(size) not in recipe["sizes"]:
        raise ValueError(f"expected images of one of the sizes {recipe['sizes']!r:.80} of the recipe, got {list(size)}")
    names = tensor_names(found, size)
    missing = [names[name] for name in (MEAN, *([DRAWS] if recipe["samples"] else [])) if names[name] not in found]
    if missing:
        raise ValueError(f"expected a tensor {missing[0]}, got {list(found)!r:.80}")
    mean = found[names[MEAN]].get_shape()
    latent = tuple(mean[1:]) if latents_of is None else latents_of(*size)
    for name, stored in names.items():
        if stored in found:
            shape, dtype = found[stored].get_shape(), found[stored].get_dtype()
            expected = [*mean[:1], *([recipe["samples"]] if name == DRAWS else []), *latent]
            if len(shape) < 2 or shape != expected:
                raise ValueError(f"{stored}: expected the shape {['rows', *expected[1:]]}, got {shape}")
            if dtype != STORED_TYPES[recipe["dtype"]]:
                raise ValueError(f"{stored}: expected {recipe['dtype']}, got {dtype}")
    if mean[0] < rows:
        raise ValueError(f"{names[MEAN]}: expected at least {rows} rows, got {mean[0]}")


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
        longest = pa.compute.max(pa.compute.binary_length(self.index.column("id"))).as_py() or 0
        if longest > MAX_ID_BYTES:  # archives may have such names, and are encoded
            raise DataError(f"{self.folder / INDEX}: expected ids of at most {MAX_ID_BYTES} bytes, got {longest}")
        check_shards(self.folder, self.index, self.recipe)
        self._places = [self.index.column(name).to_numpy() for name in ("shard", "row", "height", "width")]
        self._ids = self.index.column("id")
        self._shards: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> dict[str, Any]:
        shard, row, height, width = (int(column[number]) for column in self._places)
        tensors = self._tensors(shard)
        names = tensor_names(tensors, (height, width))
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
            path = self.folder / shard_name(shard)
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            for name, values in tensors.items():
                if not bool(torch.isfinite(values).all()):
                    raise DataError(f"{path}: {name}: expected finite latents, got NaN or infinity")
            self._shards[shard] = tensors
        return self._shards[shard]


def open(folder: str | Path) -> Latents:  # noqa: A001  # read as latents.open
    """Open the latents in a folder. Raises `DataError` for a folder without latents."""
    return Latents(folder)
