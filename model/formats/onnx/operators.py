"""Check of the operators of a graph: those of ONNX itself that end, and give the same numbers each time."""

from collections.abc import Iterator
from pathlib import Path

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from model.files import CheckpointError

STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")

RANDOM_OPERATORS = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
"""Operators that draw random numbers. A draw of the service comes from the seed of its request."""

LOOPS = frozenset({"Loop", "Scan", "SequenceMap"})
"""Operators that compute a graph repeatedly, perhaps without end; ONNX Runtime cannot be interrupted."""

TRAINING_INPUT = 2
"""Place of the input `training_mode` of Dropout."""


def check_operators(path: Path, model: ModelProto) -> None:
    """Raise `CheckpointError` for an operator that is not computed here."""
    if model.functions:
        name = model.functions[0].name
        raise CheckpointError(
            f"{path}: expected a graph without local functions, got {name}; onnx.inliner removes them"
        )
    switched_off = _false_constants(model)
    for node in nodes_of(model.graph):
        if reason := _refusal(node, switched_off):
            raise CheckpointError(f"{path}: {node.op_type} {reason}")


def graphs_of(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield a graph and the graphs in its nodes; protobuf limits their depth to 100."""
    yield graph
    for attribute in attributes_of(graph):
        for part in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
            yield from graphs_of(part)


def nodes_of(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield the nodes of a graph and of the graphs in its nodes."""
    for part in graphs_of(graph):
        yield from part.node


def attributes_of(graph: GraphProto) -> Iterator[AttributeProto]:
    """Yield the attributes of the nodes of a graph."""
    for node in graph.node:
        yield from node.attribute


def _refusal(node: NodeProto, switched_off: set[str]) -> str:
    """Return why a node is not computed, empty if it is."""
    if node.domain not in STANDARD_DOMAINS:
        known = "only the operators of ONNX itself are computed, and no library is loaded"
        return f"is an operator of the domain {node.domain!r}; {known}"
    if node.op_type in RANDOM_OPERATORS:
        return "draws random numbers without a seed; export the mean and logvar, or the moments, instead of a draw"
    if node.op_type in LOOPS:
        return "may compute without end, and cannot be interrupted; export the module without loops"
    if _is_training(node, switched_off):
        return "computes as in training; export the module in evaluation mode"
    return ""


def _is_training(node: NodeProto, switched_off: set[str]) -> bool:
    """Whether a node drops values at random, or normalises by the statistics of its batch."""
    if node.op_type == "BatchNormalization":
        return any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)
    mode = node.input[TRAINING_INPUT:]
    return node.op_type == "Dropout" and bool(mode and mode[0]) and mode[0] not in switched_off


def _false_constants(model: ModelProto) -> set[str]:
    """Return the names of the boolean constants that are false."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
    return {name for name, tensor in constants.items() if _is_false(tensor)}


def _is_false(tensor: TensorProto) -> bool:
    inline = tensor.data_location != TensorProto.EXTERNAL
    single = tensor.data_type == TensorProto.BOOL and len(tensor.dims) <= 1
    return single and inline and not numpy_helper.to_array(tensor).any()
