"""Files of a model's folder: JSON as RFC 8259 has it, and files that are replaced in one step."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from secrets import token_hex
from typing import Any


class CheckpointError(Exception):
    """A folder that does not hold a usable model; the message names the file, the key and the shapes."""


def read_json(path: Path) -> Any:
    """The JSON value in a file."""
    try:
        return parse_json(read_file(path))
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


def read_file(path: Path) -> bytes:
    """All bytes of a regular file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe could take forever
            raise CheckpointError(f"{path}: expected a regular file")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None


def _finite(text: str) -> float:
    if not isfinite(value := float(text)):
        raise ValueError(f"{text} is not a finite number")
    return value
