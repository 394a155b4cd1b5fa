"""The work of a graph, counted from the shapes of its values without computing them."""

from collections.abc import Mapping
from math import prod
from typing import NamedTuple

from onnx import GraphProto, ModelProto, NodeProto

from model.formats.onnx.graph import Graph
from model.formats.onnx.operators import nodes_of

Shape = tuple[int, ...]


class Work(NamedTuple):
    """The number of floating-point operations, and of values in the inputs and outputs of the largest operator."""

    flops: int
    values: int


def count_work(graph: Graph, shape: Shape) -> Work | None:
    """Count the work for an input of one row, [1, *shape] in the layout of the graph.

    A product and a sum for each weight wherever it is applied, as `torch.utils.flop_counter` counts. None if the shapes
    inside of the graph cannot be inferred.
    """
    model = ModelProto.FromString(graph.content)
    shapes = _shapes(model, graph.input.name, (1, *shape))
    flops, values = 0, 0
    for node in model.graph.node:
        if count := _COUNTS.get(node.op_type):
            operands = [shapes.get(name) for name in (*node.input[:2], node.output[0])]
            if None in operands:
                return None
            flops += count(node, *operands)  # type: ignore[arg-type]  # none of them is None
        values = max(values, sum(prod(shapes.get(name, (0,))) for name in (*node.input, *node.output)))
    return Work(flops, values)


def _shapes(model: ModelProto, name: str, shape: Shape) -> Mapping[str, Shape]:
    """Return the shapes of all values that can be inferred, by ONNX Runtime's own tool."""
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference  # noqa: PLC0415  # it imports sympy

    _fix_size(model.graph, name, shape)
    _remove_unused(model.graph)
    try:
        graph = SymbolicShapeInference.infer_shapes(model, auto_merge=True).graph
    except Exception:  # noqa: BLE001  # it raises anything for what it does not know
        return {}
    values = (*graph.input, *graph.value_info, *graph.output)
    found = {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in values}
    weights = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    return weights | {key: dims for key, dims in found.items() if dims and min(dims) > 0}


def _fix_size(graph: GraphProto, name: str, shape: Shape) -> None:
    """Set the shape of the input, and remove what the graph declares of others, and the names of files."""
    del graph.value_info[:]
    for info in (*graph.output, *graph.input):
        info.type.tensor_type.ClearField("shape")
        if info.name == name:
            for side in shape:
                info.type.tensor_type.shape.dim.add(dim_value=side)
    for tensor in graph.initializer:
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")


def _remove_unused(graph: GraphProto) -> None:
    """Remove the nodes that no output needs; the inference of shapes would compute their constants."""
    makers = {name: node for node in graph.node for name in node.output}
    needed, names = set[int](), [value.name for value in graph.output]
    while names:
        node = makers.get(names.pop())
        if node is not None and id(node) not in needed:
            needed.add(id(node))
            names += node.input
            for attribute in node.attribute:
                inner = (attribute.g, *attribute.graphs)
                names += [name for part in inner for nested in nodes_of(part) for name in nested.input]
    kept = [node for node in graph.node if id(node) in needed]
    del graph.node[:]
    graph.node.extend(kept)


def _convolution(_: NodeProto, x: Shape, weight: Shape, y: Shape) -> int:  # noqa: ARG001  # the signature of all counts
    return 2 * prod(weight[1:]) * prod(y)


def _transposed_convolution(_: NodeProto, x: Shape, weight: Shape, y: Shape) -> int:  # noqa: ARG001
    return 2 * prod(weight[1:]) * prod(x)


def _product(_: NodeProto, a: Shape, b: Shape, y: Shape) -> int:  # noqa: ARG001
    return 2 * a[-1] * prod(y)


def _gemm(node: NodeProto, a: Shape, b: Shape, y: Shape) -> int:  # noqa: ARG001
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return 2 * a[0 if transposed else 1] * prod(y)


_COUNTS = {"Conv": _convolution, "ConvTranspose": _transposed_convolution, "MatMul": _product, "Gemm": _gemm}
