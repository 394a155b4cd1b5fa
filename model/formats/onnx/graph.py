"""Graphs in ONNX files: their signature, checked before a runtime opens them, and the bytes of their weights.

A graph may name files with weights, which lie in its folder, and operators of the standard domains alone: those of
other domains need a library that would be loaded with the model.
"""

import hashlib
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, NamedTuple

from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from model.files import CheckpointError, open_regular, read_file

STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")

RANDOM_OPERATORS = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
"""Operators that draw random numbers. A draw of the service comes from the seed of its request."""

MAX_GRAPH_BYTES = 2**31 - 1
"""Largest size of an ONNX file; weights beyond it are in files beside it."""

MAX_FILES = 4096
"""Largest number of files with weights. Some exporters write one for each weight."""

FLOATS: dict[int, str] = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}

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
    _check_operators(path, model)
    tensors = [*_tensors(model)]
    names = sorted({_location(path, tensor) for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL})
    if len(names) > MAX_FILES:
        raise CheckpointError(f"{path}: expected weights in at most {MAX_FILES} files, got {len(names)}")
    files = {name: _read_weights(path, name, root) for name in names}
    _check_offsets(path, tensors, files)
    parameters = sum(prod(tensor.dims) for tensor in model.graph.initializer if tensor.data_type in FLOATS)
    return Graph(path, content, files, _input(path, model), _outputs(path, model), parameters, _digest(content, files))


def written(shape: Dimensions | None) -> str:
    """Write a shape for people; `?` stands for any size."""
    return "of an unknown shape" if shape is None else f"({', '.join('?' if d is None else str(d) for d in shape)})"


def _check_operators(path: Path, model: ModelProto) -> None:
    if model.functions:
        name = model.functions[0].name
        raise CheckpointError(
            f"{path}: expected a graph without local functions, got {name}; onnx.inliner removes them"
        )
    for node in _nodes(model.graph):
        if node.domain not in STANDARD_DOMAINS:
            known = "only the operators of ONNX itself are computed, and no library is loaded"
            raise CheckpointError(f"{path}: {node.op_type} is an operator of the domain {node.domain!r}; {known}")
        if node.op_type in RANDOM_OPERATORS:
            hint = "export the mean and logvar, or the moments, instead of a draw"
            raise CheckpointError(f"{path}: {node.op_type} draws random numbers without a seed; {hint}")


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for part in _graphs(graph):
        yield from part.node


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield a graph and the graphs in its nodes; protobuf limits their depth to 100."""
    yield graph
    for attribute in _attributes(graph):
        for part in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
            yield from _graphs(part)


def _attributes(graph: GraphProto) -> Iterator[AttributeProto]:
    for node in graph.node:
        yield from node.attribute


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield all constants of a model: any of them may name a file."""
    for graph in _graphs(model.graph):
        yield from graph.initializer
        sparse = [*graph.sparse_initializer]
        for attribute in _attributes(graph):
            yield from ([attribute.t] if attribute.HasField("t") else [])
            yield from attribute.tensors
            sparse += [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            sparse += attribute.sparse_tensors
        for tensor in sparse:
            yield tensor.values
            yield tensor.indices


def _location(path: Path, tensor: TensorProto) -> str:
    """Return the name of the file of a tensor: a relative path of names."""
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
