"""ONNX graphs of the networks of `model.networks`, for runtimes other than torch."""

from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from model.networks.blocks import Residual

INPUT, OUTPUT = "x", "y"
OPSET = 17

Input = tuple[int, Sequence[int]]
"""An element type of `TensorProto` and the shape of one row."""


class Graph:
    """Nodes that have been added so far, and their weights; a value is known by its name."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Its output's name."""
        return self.nodes(operator, 1, *inputs, **attributes)[0]

    def nodes(self, operator: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """The names of so many outputs."""
        names = [f"{operator}_{len(self._nodes)}_{number}" for number in range(outputs)]
        self._nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names

    def weight(self, values: Tensor | np.ndarray) -> str:
        """Its name."""
        name = f"weight_{len(self._weights)}"
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def number(self, value: float) -> str:
        """The name of one that broadcasts."""
        self._weights.append(helper.make_tensor(f"weight_{len(self._weights)}", TensorProto.FLOAT, (), [value]))
        return self._weights[-1].name

    def network(self, network: nn.Sequential, x: str) -> str:
        """The name of what it gives; `TypeError` names a piece that has no translation."""
        for piece in network:
            x = _added(piece, self, x)
        return x

    def model(self, inputs: Mapping[str, Input], outputs: Mapping[str, str]) -> ModelProto:
        """The whole; its outputs by the names that they get, and of the values that they are."""
        self._nodes += [helper.make_node("Identity", [value], [name]) for name, value in outputs.items()]
        starts = [helper.make_tensor_value_info(name, kind, ["B", *shape]) for name, (kind, shape) in inputs.items()]
        ends = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph(self._nodes, "network", starts, ends, self._weights)
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=helper.find_min_ir_version_for(opset))


def onnx_model(network: nn.Sequential, shape: Sequence[int]) -> ModelProto:
    """The network from float32 [B, *shape], with its weights; `TypeError` names a piece that has no translation."""
    graph = Graph()
    return graph.model({INPUT: (TensorProto.FLOAT, shape)}, {OUTPUT: graph.network(network, INPUT)})


@singledispatch
def _added(piece: nn.Module, graph: Graph, x: str) -> str:  # noqa: ARG001  # what its cases take
    raise TypeError(f"no translation of {type(piece).__name__} to ONNX")


@_added.register
def _(piece: Residual, graph: Graph, x: str) -> str:
    change = _added(piece.second, graph, _silu(graph, _added(piece.first, graph, _silu(graph, x))))
    return graph.node("Add", x, change)


@_added.register
def _(piece: nn.Conv2d, graph: Graph, x: str) -> str:
    return graph.node("Conv", x, *_weights(piece, graph), **_window(piece))


@_added.register
def _(piece: nn.ConvTranspose2d, graph: Graph, x: str) -> str:
    return graph.node(
        "ConvTranspose", x, *_weights(piece, graph), output_padding=piece.output_padding, **_window(piece)
    )


@_added.register
def _(piece: nn.Linear, graph: Graph, x: str) -> str:
    return graph.node("Gemm", x, *_weights(piece, graph), transB=1)


@_added.register
def _(piece: nn.SiLU, graph: Graph, x: str) -> str:  # noqa: ARG001  # it has no weights
    return _silu(graph, x)


@_added.register
def _(piece: nn.Flatten, graph: Graph, x: str) -> str:
    return graph.node("Flatten", x, axis=piece.start_dim)


@_added.register
def _(piece: nn.Unflatten, graph: Graph, x: str) -> str:
    return graph.node("Reshape", x, graph.weight(np.array([0, *piece.unflattened_size], np.int64)))  # 0 keeps B


def _silu(graph: Graph, x: str) -> str:
    return graph.node("Mul", x, graph.node("Sigmoid", x))


def _weights(piece: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, graph: Graph) -> tuple[str, ...]:
    return tuple(graph.weight(values) for values in (piece.weight, piece.bias) if values is not None)


def _window(piece: nn.Conv2d | nn.ConvTranspose2d) -> dict[str, Any]:
    return {"kernel_shape": piece.kernel_size, "strides": piece.stride, "pads": [*piece.padding, *piece.padding]}
