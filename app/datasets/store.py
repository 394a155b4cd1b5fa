"""The folder of a data set's latents: what it has, and the writing of further shards, each complete or not there.

A shard and its index are written to temporary files, synchronised and renamed, the index last: a shard without an index
is written again. `finish` joins the indices. The layout is that of `model.data.latents`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from app.datasets.decoding import content_digest
from app.datasets.entries import Entry
from app.datasets.output import locked_folder, require_no_others, require_regular
from model.data.arrays import DataError
from model.data.latents import (
    INDEX,
    METADATA,
    SCHEMA,
    LatentsOf,
    check_shards,
    part_name,
    part_numbers,
    read_index,
    read_indices,
    shard_name,
)
from model.errors import OptionsError, UserError
from model.files import json_bytes, renamed_when_written

COMPRESSION = "zstd"

REPEATING = [name for name in SCHEMA.names if name not in ("id", "row", "digest", "seed")]
"""The columns of the index whose values repeat; a dictionary of the others takes time and room."""

_SHARD_OR_INDEX = re.compile(r"latents-\d{5,}\.safetensors|index(-\d{5,})?\.parquet")
_TEMPORARY = re.compile(rf"({_SHARD_OR_INDEX.pattern})\.[0-9a-f]+\.partial")
_OWN = re.compile(f"{_SHARD_OR_INDEX.pattern}|{_TEMPORARY.pattern}")


class Contents(NamedTuple):
    """What a folder holds: images, those that could not be read among them, and shards."""

    images: int
    unreadable: int
    shards: int


class LatentStore:
    """The folder that latents of one recipe are written to.

    Several processes share the work of one that has `parts`, the numbers of the shards that were there at the start:
    they write shards of their own. `latents_of` is that of `check_shards`. `shard_size` is the number of images in a
    shard, also of those that cannot be read; 0 for that of the shards that are there, or the usual one. Raises
    `DataError` for a folder with latents of another recipe or in shards of another size, or with a damaged index or
    shard.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Mapping[str, Any],
        latents_of: LatentsOf,
        parts: Sequence[int] | None = None,
        *,
        shard_size: int,
        usual_shard_size: int,
    ) -> None:
        self.folder, self.recipe, self._latents_of = folder, dict(recipe), latents_of
        self.shard_size = shard_size
        with ExitStack() as unlocking:
            if parts is None:
                unlocking.enter_context(locked_folder(folder))
                _prepare(folder)
            self.parts = tuple(part_numbers(folder) if parts is None else parts)
            self._merged: int = read_index(folder / INDEX)[1]["shards"] if (folder / INDEX).exists() else 0
            self._table = self._read()
            self.shard_size = self.shard_size or usual_shard_size
            self._rows = {name: row for row, name in enumerate(self._table.column("id").to_pylist())}
            self._sizes, self._times = (self._table.column(name).to_numpy() for name in ("bytes", "modified"))
            self._errors = self._table.column("error").is_valid().to_numpy()
            self._replaces_rows = False
            self._known: dict[str, tuple[int, int] | None] = {}  # of verified images, None for a changed one
            self._unlocking = unlocking.pop_all()

    def close(self) -> None:
        """Let other processes write to the folder."""
        self._unlocking.close()

    def has(self, entry: Entry, *, verify: bool, retry: bool) -> bool:
        """Return whether the image is in the folder, unchanged by size and time or, to `verify`, by its content.

        With `retry` an image that could not be read is not.
        """
        row = self._rows.get(entry.id)
        if row is None:
            return False
        if retry and self._errors[row]:
            return self._replaced()
        unchanged = self._sizes[row] == entry.size and self._times[row] == entry.modified
        if verify:
            unchanged = self._verified(row, entry)
        return bool(unchanged) or self._replaced()

    def is_unreadable(self, name: str) -> bool:
        """Return whether the folder has no latents of an image because it could not be read."""
        row = self._rows.get(name)
        return row is not None and bool(self._errors[row])

    def _verified(self, row: int, entry: Entry) -> bool:
        """Return whether the content of an image is that of its row; then its size and time are those of the row."""
        if entry.id not in self._known:
            same = (self._table.column("digest")[row].as_py() or "") == content_digest(entry)
            self._known[entry.id] = (entry.size, entry.modified) if same else None
        return self._known[entry.id] is not None

    def numbers(self) -> Iterator[int]:
        """Yield the numbers of further shards.

        A number that an interrupted run of several processes has left out comes first, unless a row is replaced: of two
        rows with one id the one in the shard with the higher number counts.
        """
        taken = set(self.parts)
        first = max(taken, default=-1) + 1 if self._replaces_rows else 0
        return (number for number in count(max(first, self._merged)) if number not in taken)

    def write(self, number: int, tensors: Mapping[str, Tensor], columns: Mapping[str, Sequence[Any]]) -> None:
        """Write a shard and its index, by column. Raises `UserError` where the disk is full."""
        if tensors:
            with renamed_when_written(self.folder / shard_name(number)) as path, _reporting(path):
                save_file(dict(tensors), path)
        table = pa.Table.from_pydict(dict(columns), SCHEMA)
        self._write_index(self.folder / part_name(number), table, number + 1)

    def finish(self) -> Contents:
        """Join the indices of all shards into one."""
        parts = part_numbers(self.folder)
        if parts or self._known or not (self.folder / INDEX).exists():
            table = self._with_times(read_indices(self.folder)[0] if parts else self._table)
            self._write_index(self.folder / INDEX, table, max([self._merged, *(number + 1 for number in parts)]))
            for number in parts:
                (self.folder / part_name(number)).unlink(missing_ok=True)
            self._table = table
        errors = self._table.column("error")
        shards = pa.compute.count_distinct(self._table.column("shard")).as_py()
        return Contents(len(errors), len(errors) - errors.null_count, shards)

    def _with_times(self, table: pa.Table) -> pa.Table:
        """Return an index with the size and time of verified images, by which the next run finds them."""
        known = {name: found for name, found in self._known.items() if found}
        if not known:
            return table
        ids = table.column("id").to_pylist()
        for position, column in enumerate(("bytes", "modified")):
            old = table.column(column).to_pylist()
            new = [known.get(name, (value, value))[position] for name, value in zip(ids, old, strict=True)]
            table = table.set_column(table.schema.get_field_index(column), SCHEMA.field(column), [new])
        return table

    def _replaced(self) -> bool:
        self._replaces_rows = True
        return False

    def _write_index(self, path: Path, table: pa.Table, shards: int) -> None:
        metadata = json_bytes(path, {"recipe": self.recipe, "shards": shards, "shard_size": self.shard_size})
        combined = table.combine_chunks().replace_schema_metadata({METADATA: metadata})  # the same bytes for any parts
        with renamed_when_written(path) as partial, _reporting(path):
            pq.write_table(combined, partial, compression=COMPRESSION, use_dictionary=REPEATING)

    def _read(self) -> pa.Table:
        """Return the rows of all indices; those of shards that are missing are left out."""
        if not (self.folder / INDEX).exists() and not self.parts:
            return SCHEMA.empty_table()
        table, metadata = read_indices(self.folder, self.parts)
        self._require_recipe(metadata["recipe"])
        self._keep_shard_size(metadata.get("shard_size", 0))
        shards = table.column("shard")
        missing = [
            number
            for number in pa.compute.unique(shards).to_pylist()
            if number is not None and not (self.folder / shard_name(number)).exists()
        ]
        if missing:
            table = table.filter(pa.compute.invert(pa.compute.is_in(shards, pa.array(missing, pa.int32()))))
        check_shards(self.folder, table, metadata["recipe"], self._latents_of)
        return table

    def _require_recipe(self, found: Mapping[str, Any]) -> None:
        names = [name for name in self.recipe if name != "model"]  # which is not part of the digest
        for name in names:
            if found.get(name) != self.recipe[name]:
                shown = "model" if name == "digest" else name
                raise DataError(
                    f"{self.folder}: has latents with {shown} {_shown(found.get(shown))}, got "
                    f"{_shown(self.recipe[shown])}; choose another folder, or the options that it began with"
                )

    def _keep_shard_size(self, found: int) -> None:
        if found and self.shard_size not in (0, found):
            raise OptionsError(
                f"shard_size: expected {found}, as {self.folder} has it, got {self.shard_size}; choose another folder"
            )
        self.shard_size = found or self.shard_size


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ",".join(f"{width}x{height}" for height, width in value) or "by image"
    return str(value).lower() if isinstance(value, bool) else str(value)


@contextmanager
def _reporting(path: Path) -> Iterator[None]:
    """Report that a file could not be written, for example to a full disk."""
    try:
        yield
    except (SafetensorError, pa.ArrowException) as error:
        raise UserError(f"{path}: {_cause(str(error))}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or _cause(str(error))}") from None


def _cause(text: str) -> str:
    return text.splitlines()[0].rpartition("I/O error: ")[2]


def _prepare(folder: Path) -> None:
    """Check the names in a folder, and remove what a run that was killed has left.

    Raises `DataError` for a folder with files of others, or with anything but a file under the name of one.
    """
    if not (folder / INDEX).exists() and not part_numbers(folder):
        require_no_others(folder, INDEX, _OWN)
    for path in folder.iterdir():
        if _SHARD_OR_INDEX.fullmatch(path.name):
            require_regular(path)
        elif _TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)
    if (folder / INDEX).exists():
        merged = read_index(folder / INDEX)[1]["shards"]
        for number in part_numbers(folder):
            if number < merged:  # it is in the whole index: a run was killed before it removed the part
                (folder / part_name(number)).unlink(missing_ok=True)
