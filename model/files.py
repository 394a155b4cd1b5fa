"""Files of a model's folder: JSON as RFC 8259 has it, and files that are replaced in one step."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
METADATA = "__metadata__"

MAX_BYTES = 2**34
"""Bytes of a file: 2**31 weights of 8 bytes."""

MAX_JSON = 2**28
"""Bytes of config.json and metrics.json."""

MAX_HEADER = 100_000_000
"""Bytes that safetensors allows for the header of a file."""


class CheckpointError(Exception):
    """A folder that does not hold a usable model; the message names the file, the key and the shapes."""


def read_json(path: Path) -> Any:
    """The JSON value in a file."""
    try:
        return parse_json(read_file(path, MAX_JSON))
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from None


def parse_json(content: str | bytes) -> Any:
    """The value of JSON as RFC 8259 has it: no NaN, no infinity; a `ValueError` says what is wrong."""
    try:
        return json.loads(content, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value atomically, readable by a person; JSON has no word for a number that is not finite."""
    write_atomically(path, json_bytes(path, value))


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step that survives a crash or a power cut."""
    with replacing(path, content):
        pass


@contextmanager
def replacing(path: Path, content: bytes) -> Iterator[None]:
    """Write a new file beside `path`, and put it in its place at the end; several processes may do so at once."""
    partial = path.with_name(f"{path.name}.{token_hex(4)}.partial")
    try:
        file = partial.open("xb")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def json_bytes(path: Path, value: Any) -> bytes:
    """What `write_json` writes; `path` is named where the value cannot be written."""
    try:
        return f"{json.dumps(value, indent=2, allow_nan=False)}\n".encode()
    except ValueError as error:
        raise CheckpointError(f"{path}: expected finite numbers: {error}") from None


def read_file(path: Path, limit: int = MAX_BYTES) -> bytes:
    """All bytes of a regular file of at most `limit`."""
    with _opened(path) as (file, size):
        if size > limit:
            raise CheckpointError(f"{path}: expected at most {limit:,} bytes, got {size:,}")
        return file.read(size) or b""


def check_folder(folder: Path) -> None:
    """Check in a moment, without torch, that a folder holds a model; raises `CheckpointError`.

    config.json has to be a JSON object, and model.safetensors as long as its header says. The architecture and the
    weights themselves are checked when the model is loaded.
    """
    if not isinstance(config := read_json(folder / CONFIG), dict):
        raise CheckpointError(f"{folder / CONFIG}: expected an object, got {type(config).__name__}")
    with _opened(folder / WEIGHTS) as (file, size):
        length = int.from_bytes(file.read(8) or b"", "little")
        whole = size == 8 + length + _data(file.read(length) or b"") if length < min(size, MAX_HEADER) else False
    if not whole:
        raise CheckpointError(f"{folder / WEIGHTS}: not a complete safetensors file, {size} bytes")


def _data(header: bytes) -> int:
    """The bytes that follow a header of safetensors, -1 where it is none."""
    try:
        tensors = parse_json(header)
        return max((fields["data_offsets"][1] for name, fields in tensors.items() if name != METADATA), default=0)
    except (ValueError, TypeError, AttributeError, LookupError):
        return -1


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file and its size. A pipe or a device could make the reader wait for ever."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:  # Path.open has no opener
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise CheckpointError(f"{path}: expected a regular file")
            yield file, found.st_size
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _finite(text: str) -> float:
    if not isfinite(value := float(text)):
        raise ValueError(f"{text} is not a finite number")
    return value
