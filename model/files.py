"""Reading and atomic writing of the files in a model folder; JSON is that of RFC 8259, without NaN and infinity."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO

from model.errors import UserError, reporting_file

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
METADATA = "__metadata__"

MAX_BYTES = 2**34
"""Largest size of a file: 2**31 weights of 8 bytes."""

MAX_JSON = 2**22
"""Largest size of a JSON file in bytes. A record of 10,000 epochs fits, and any such file is read in a few seconds."""

MAX_HEADER = 100_000_000
"""Largest header of a safetensors file in bytes, as the format defines it."""


class CheckpointError(UserError):
    """Model folder that cannot be used; the message names the file, the key and the shapes."""


def read_json(path: Path) -> Any:
    """Read the JSON value in a file of at most `MAX_JSON` bytes. Raises `CheckpointError`."""
    try:
        return parse_json(read_file(path, MAX_JSON))
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from None


def parse_json(content: str | bytes) -> Any:
    """Parse JSON in UTF-8, without NaN and infinity (RFC 8259). Raises `ValueError`."""
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        return json.loads(text, parse_float=_parse_finite, parse_constant=_parse_finite)
    except UnicodeDecodeError as error:
        raise ValueError(f"expected UTF-8, got another encoding (byte {error.start})") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value atomically, indented. Raises `CheckpointError` for a number that is not finite."""
    write_atomically(path, json_bytes(path, value))


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step; after a crash or a power failure the file is either the old or the new one."""
    with replacing(path, content):
        pass


@contextmanager
def replacing(path: Path, content: bytes) -> Iterator[None]:
    """Write a temporary file, and rename it to `path` when the context ends; safe with concurrent writers."""
    partial = path.with_name(f"{path.name}.{token_hex(4)}.partial")
    try:
        with reporting_file(path), partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield
        with reporting_file(path):
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def renamed_when_written(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file for a library to write; rename it to `path` when it is on the disk.

    After a crash or a power failure the file is either the old or the new one.
    """
    partial = path.with_name(f"{path.name}.{token_hex(4)}.partial")
    try:
        with reporting_file(path):
            partial.touch(exist_ok=False)
            mode = partial.stat().st_mode
        yield partial
        with reporting_file(path):
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.chmod(mode)  # safetensors lets the owner alone read its files
            partial.replace(path)
            _synchronise(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _synchronise(folder: Path) -> None:
    """Write the names of a folder to the disk, so that files appear in the order in which they were renamed."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def json_bytes(path: Path, value: Any) -> bytes:
    """Return the bytes that `write_json` writes; an error names `path`."""
    try:
        return f"{json.dumps(value, indent=2, allow_nan=False)}\n".encode()
    except ValueError as error:
        raise CheckpointError(f"{path}: expected finite numbers: {error}") from None


def is_present(path: Path) -> bool:
    """Return whether a folder has an entry of this name, also a link to no file, of which the reading is an error."""
    return os.path.lexists(path)


def read_file(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Read a regular file of at most `limit` bytes. Raises `CheckpointError`."""
    with open_regular(path) as (file, size):
        if size > limit:
            raise CheckpointError(f"{path}: expected at most {limit:,} bytes, got {size:,}")
        return file.read(size) or b""


@contextmanager
def open_regular(path: Path, error: type[UserError] = CheckpointError) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file and yield it with its size; opening a pipe or a device could block for ever.

    Raises `error` for any other file, and if the system refuses to read it.
    """
    try:
        with open(path, "rb", opener=_open_nonblocking) as file:  # Path.open has no opener
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise error(f"{path}: expected a regular file")
            yield file, found.st_size
    except OSError as failure:
        raise error(f"{path}: {failure.strerror or failure}") from None


def require_folder(folder: Path) -> None:
    """Raise `CheckpointError` for a model folder that does not exist."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; expected a model folder with {CONFIG} and {WEIGHTS}")


def check_folder(folder: Path) -> None:
    """Check that a folder has the files of a model, quickly and without torch. Raises `CheckpointError`.

    config.json must be a JSON object, and model.safetensors must have the length that its header states. The
    architecture and the weights are checked when the model is loaded.
    """
    require_folder(folder)
    if not isinstance(config := read_json(folder / CONFIG), dict):
        raise CheckpointError(f"{folder / CONFIG}: expected an object, got {type(config).__name__}")
    check_weights_file(folder / WEIGHTS)


def check_weights_file(path: Path) -> None:
    """Check that a safetensors file has the length that its header states. Raises `CheckpointError`."""
    with open_regular(path) as (file, size):
        length = int.from_bytes(file.read(8) or b"", "little")
        complete = length < min(size, MAX_HEADER) and size == 8 + length + _data_length(file.read(length) or b"")
    if not complete:
        raise CheckpointError(f"{path}: not a complete safetensors file, {size} bytes")


def _data_length(header: bytes) -> int:
    """Return the number of bytes after the header of a safetensors file, -1 for an invalid header."""
    try:
        tensors = parse_json(header)
        return max((fields["data_offsets"][1] for name, fields in tensors.items() if name != METADATA), default=0)
    except (ValueError, TypeError, AttributeError, LookupError):
        return -1


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _parse_finite(text: str) -> float:
    if not isfinite(value := float(text)):
        raise ValueError(f"{text} is not a finite number")
    return value
