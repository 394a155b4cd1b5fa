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

Input = tuple[int, Sequence[int | str]]
"""An element type of `TensorProto` and the shape of one row; a dimension of any size has a name."""


class Graph:
    """A graph under construction; its values have names."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        return self.nodes(operator, 1, *inputs, **attributes)[0]

    def nodes(self, operator: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node and return the names of its outputs."""
        names = [f"{operator}_{len(self._nodes)}_{number}" for number in range(outputs)]
        self._nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names

    def weight(self, values: Tensor | np.ndarray) -> str:
        """Add weights and return their name."""
        name = f"weight_{len(self._weights)}"
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def number(self, value: float) -> str:
        """Add a scalar and return its name."""
        self._weights.append(helper.make_tensor(f"weight_{len(self._weights)}", TensorProto.FLOAT, (), [value]))
        return self._weights[-1].name

    def network(self, network: nn.Sequential, x: str) -> str:
        """Add a network and return the name of its output; raises `TypeError` for a layer without a translation."""
        for layer in network:
            x = _add_layer(layer, self, x)
        return x

    def model(self, inputs: Mapping[str, Input], outputs: Mapping[str, str]) -> ModelProto:
        """Return the graph as a model; `outputs` maps the name of each output to the name of its value."""
        self._nodes += [helper.make_node("Identity", [value], [name]) for name, value in outputs.items()]
        input_infos = [
            helper.make_tensor_value_info(name, kind, ["B", *shape]) for name, (kind, shape) in inputs.items()
        ]
        output_infos = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph(self._nodes, "network", input_infos, output_infos, self._weights)
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=helper.find_min_ir_version_for(opset))


def onnx_model(network: nn.Sequential, shape: Sequence[int]) -> ModelProto:
    """Return a network from float32 [B, *shape] with its weights; `TypeError` names a layer without a translation."""
    graph = Graph()
    return graph.model({INPUT: (TensorProto.FLOAT, shape)}, {OUTPUT: graph.network(network, INPUT)})


@singledispatch
def _add_layer(layer: nn.Module, graph: Graph, x: str) -> str:  # noqa: ARG001  # the signature of the registered functions
    raise TypeError(f"no translation of {type(layer).__name__} to ONNX")


@_add_layer.register
def _(layer: Residual, graph: Graph, x: str) -> str:
    change = _add_layer(layer.second, graph, _silu(graph, _add_layer(layer.first, graph, _silu(graph, x))))
    return graph.node("Add", x, change)


@_add_layer.register
def _(layer: nn.Conv2d, graph: Graph, x: str) -> str:
    return graph.node("Conv", x, *_weights(layer, graph), **_window(layer))


@_add_layer.register
def _(layer: nn.ConvTranspose2d, graph: Graph, x: str) -> str:
    return graph.node(
        "ConvTranspose", x, *_weights(layer, graph), output_padding=layer.output_padding, **_window(layer)
    )


@_add_layer.register
def _(layer: nn.Linear, graph: Graph, x: str) -> str:
    return graph.node("Gemm", x, *_weights(layer, graph), transB=1)


@_add_layer.register
def _(layer: nn.SiLU, graph: Graph, x: str) -> str:  # noqa: ARG001  # it has no weights
    return _silu(graph, x)


@_add_layer.register
def _(layer: nn.Flatten, graph: Graph, x: str) -> str:
    return graph.node("Flatten", x, axis=layer.start_dim)


@_add_layer.register
def _(layer: nn.Unflatten, graph: Graph, x: str) -> str:
    return graph.node("Reshape", x, graph.weight(np.array([0, *layer.unflattened_size], np.int64)))  # 0 keeps B


def _silu(graph: Graph, x: str) -> str:
    return graph.node("Mul", x, graph.node("Sigmoid", x))


def _weights(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, graph: Graph) -> tuple[str, ...]:
    return tuple(graph.weight(values) for values in (layer.weight, layer.bias) if values is not None)


def _window(layer: nn.Conv2d | nn.ConvTranspose2d) -> dict[str, Any]:
    return {"kernel_shape": layer.kernel_size, "strides": layer.stride, "pads": [*layer.padding, *layer.padding]}
