"""Graphs in ONNX files: their signature, checked before a runtime opens them, and the bytes of their weights.

A graph may name files with weights, which lie in its folder.
"""

import hashlib
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, ValueInfoProto
from onnx.numpy_helper import to_array

from model.files import CheckpointError, open_regular, read_file
from model.formats.onnx.operators import attributes_of, check_operators, graphs_of

MAX_GRAPH_BYTES = 2**31 - 1
"""Largest size of an ONNX file; weights beyond it are in files beside it."""

MAX_FILES = 4096
"""Largest number of files with weights. Some exporters write one for each weight."""

CHUNK = 2**22
"""Weights that are checked at once."""

FLOATS: dict[int, str] = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}

WEIGHT_TYPES: dict[int, str] = {**FLOATS, TensorProto.DOUBLE: "float64"}

Dimensions = tuple[int | None, ...]
"""A shape; None for a dimension of any size."""


class Value(NamedTuple):
    """An input or output of a graph."""

    name: str
    dtype: str
    shape: Dimensions | None

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {written(self.shape)}"


@dataclass(frozen=True, slots=True)
class Graph:
    """A checked graph.

    `content` are the bytes of its file, and `weight_files` those of the files that it names, by their name in the
    graph. `parameters` is the number of its weights, and `digest` the SHA-256 of all its files in hexadecimal.
    """

    path: Path
    content: bytes
    weight_files: Mapping[str, mmap.mmap | bytes]
    input: Value
    outputs: tuple[Value, ...]
    parameters: int
    digest: str


def read_graph(path: Path, root: Path) -> Graph:
    """Read and check a graph of one input.

    The files with its weights lie in the folder of the graph, and in `root` once links are resolved. Raises
    `CheckpointError`.
    """
    content = read_file(path, MAX_GRAPH_BYTES)
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise CheckpointError(f"{path}: not an ONNX graph, {len(content)} bytes") from None
    check_operators(path, model)
    tensors = [*_tensors(model)]
    names = sorted({_location(path, tensor) for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL})
    if len(names) > MAX_FILES:
        raise CheckpointError(f"{path}: expected weights in at most {MAX_FILES} files, got {len(names)}")
    files = {name: _read_weights(path, name, root) for name in names}
    _check_offsets(path, tensors, files)
    for tensor in model.graph.initializer:
        _check_numbers(path, tensor, files)
    parameters = sum(prod(tensor.dims) for tensor in model.graph.initializer if tensor.data_type in FLOATS)
    return Graph(path, content, files, _input(path, model), _outputs(path, model), parameters, _digest(content, files))


def written(shape: Dimensions | None) -> str:
    """Write a shape for people; `?` stands for any size."""
    return "of an unknown shape" if shape is None else f"({', '.join('?' if d is None else str(d) for d in shape)})"


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield all constants of a model: any of them may name a file."""
    for graph in graphs_of(model.graph):
        yield from graph.initializer
        sparse = [*graph.sparse_initializer]
        for attribute in attributes_of(graph):
            yield from ([attribute.t] if attribute.HasField("t") else [])
            yield from attribute.tensors
            sparse += [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            sparse += attribute.sparse_tensors
        for tensor in sparse:
            yield tensor.values
            yield tensor.indices


def _location(path: Path, tensor: TensorProto) -> str:
    """Return the name of the file of a tensor: a relative path of names."""
    entries = [entry.key for entry in tensor.external_data]
    if len(set(entries)) < len(entries):
        raise CheckpointError(f"{path}: {tensor.name}: expected one entry each for its file, got {', '.join(entries)}")
    name = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    parts = name.split("/")
    if not name or "\\" in name or ":" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise CheckpointError(f"{path}: {tensor.name}: expected weights in a file of this folder, got {name!r}")
    return name


def _read_weights(path: Path, name: str, root: Path) -> mmap.mmap | bytes:
    """Map a file with weights into memory."""
    file = path.parent / name
    if not file.resolve().is_relative_to(root.resolve()):
        raise CheckpointError(f"{path}: expected weights in a file of this folder, got {name!r}, a link out of it")
    with open_regular(file) as (opened, size):
        return _mapped(opened) if size else b""


def _mapped(file: BinaryIO) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _check_offsets(path: Path, tensors: list[TensorProto], files: Mapping[str, mmap.mmap | bytes]) -> None:
    for tensor in tensors:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name, size = entries["location"], len(files[entries["location"]])
        try:
            start, length = int(entries.get("offset", "0")), int(entries.get("length", "0"))
        except ValueError:
            start = length = -1
        if min(start, length) < 0 or start + length > size:
            raise CheckpointError(f"{path}: {tensor.name} lies outside of {name}, a file of {size} bytes")


def _check_numbers(path: Path, tensor: TensorProto, files: Mapping[str, mmap.mmap | bytes]) -> None:
    """Raise `CheckpointError` for weights that are not numbers; infinite ones occur in masks."""
    if tensor.data_type not in WEIGHT_TYPES:
        return
    try:
        values = (
            _weights_in(tensor, files) if tensor.data_location == TensorProto.EXTERNAL else to_array(tensor).ravel()
        )
    except ValueError as error:
        raise CheckpointError(f"{path}: {tensor.name}: not the weights of {tuple(tensor.dims)}: {error}") from None
    if any(np.isnan(values[start : start + CHUNK]).any() for start in range(0, len(values), CHUNK)):
        raise CheckpointError(f"{path}: {tensor.name}: expected numbers, got NaN")


def _weights_in(tensor: TensorProto, files: Mapping[str, mmap.mmap | bytes]) -> np.ndarray:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file, start = files[entries["location"]], int(entries.get("offset", "0"))
    length = int(entries.get("length", "0")) or len(file) - start
    dtype = np.dtype(WEIGHT_TYPES[tensor.data_type])
    return np.frombuffer(file, dtype, length // dtype.itemsize, start)


def _input(path: Path, model: ModelProto) -> Value:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [_value(path, info) for info in model.graph.input if info.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise CheckpointError(f"{path}: expected a graph of one input, got {names}")
    return inputs[0]


def _outputs(path: Path, model: ModelProto) -> tuple[Value, ...]:
    return tuple(_value(path, info) for info in model.graph.output)


def _value(path: Path, info: ValueInfoProto) -> Value:
    kind = info.type.tensor_type
    if kind.elem_type not in FLOATS:
        types: dict[int, str] = {number: name.lower() for name, number in TensorProto.DataType.items()}
        got = types.get(kind.elem_type, "another type")
        raise CheckpointError(f"{path}: {info.name}: expected float32 or float16, got {got}")
    known = kind.HasField("shape")
    dimensions = tuple(d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim)
    return Value(info.name, FLOATS[kind.elem_type], dimensions if known else None)


def _digest(content: bytes, files: Mapping[str, mmap.mmap | bytes]) -> str:
    """Return the SHA-256 of the graph's file, or of the digests of all files where there are several."""
    own = hashlib.sha256(content).hexdigest()
    if not files:
        return own
    lines = [own, *(f"{name} {hashlib.sha256(file).hexdigest()}" for name, file in files.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
