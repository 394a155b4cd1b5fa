"""ONNX graphs of encode, decode and reconstruct, from pixels to pixels.

The formulas around the networks are those of `app.runtimes.operations`; `app.runtimes.verification` compares both.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from onnx import ModelProto, TensorProto

from app.batching.rows import RowBatch
from app.context import Operation
from app.runtimes.onnx_export import Graph
from app.runtimes.onnx_session import create_session
from model.likelihoods import LEVELS
from model.networks.encoder import LOGVAR_LIMITS, MAX_ABS_LOGVAR, MEAN_LIMITS, Limits
from model.vae import VAE

PIXELS, LATENTS = "pixels", "latents"


def operation_graph(operation: str, vae: VAE) -> ModelProto:
    """Return an operation of a VAE as a graph, with its weights."""
    inputs, _, formula = OPERATION_GRAPHS[operation]
    graph = Graph()
    outputs = formula(graph, vae)
    types = {
        PIXELS: (TensorProto.UINT8, vae.config.image_shape),
        LATENTS: (TensorProto.FLOAT, vae.config.latent_shape),
    }
    return graph.model({name: types[name] for name in inputs}, outputs)


def _encode(graph: Graph, vae: VAE) -> dict[str, str]:
    mean, logvar = _posterior(graph, vae)
    return {"mean": mean, "logvar": logvar}


def _decode(graph: Graph, vae: VAE) -> dict[str, str]:
    return _levels(graph, vae, LATENTS)


def _reconstruct(graph: Graph, vae: VAE) -> dict[str, str]:
    mean, logvar = _posterior(graph, vae)
    std = graph.node("Exp", graph.node("Mul", graph.number(0.5), logvar))
    return _levels(graph, vae, graph.node("Add", mean, graph.node("Mul", std, LATENTS)))


def _posterior(graph: Graph, vae: VAE) -> tuple[str, str]:
    x = graph.node("Div", graph.node("Cast", PIXELS, to=TensorProto.FLOAT), graph.number(LEVELS - 1))
    centred = graph.node("Sub", graph.node("Mul", graph.number(2), x), graph.number(1))
    mean, logvar = graph.nodes("Split", 2, graph.network(vae.encoder.network, centred), axis=1)
    if vae.encoder.bounded:
        return _limited(graph, mean, MEAN_LIMITS), _limited(graph, logvar, LOGVAR_LIMITS)
    return mean, graph.node("Clip", logvar, graph.number(-MAX_ABS_LOGVAR), graph.number(MAX_ABS_LOGVAR))


def _limited(graph: Graph, values: str, limits: Limits) -> str:
    centred = graph.node("Sub", values, graph.number(limits.centre))
    share = graph.node("Sigmoid", graph.node("Mul", centred, graph.number(limits.slope)))
    return graph.node("Add", graph.node("Mul", share, graph.number(limits.high - limits.low)), graph.number(limits.low))


def _levels(graph: Graph, vae: VAE, z: str) -> dict[str, str]:
    raw = graph.network(vae.decoder.network, z)
    features = vae.decoder.family.params_per_channel
    location, *_ = graph.nodes("Split", features, raw, axis=1) if features > 1 else [raw]
    mean = graph.node("Sigmoid", location)
    level = graph.node("Round", graph.node("Mul", mean, graph.number(LEVELS - 1)))
    return {"levels": graph.node("Cast", level, to=TensorProto.UINT8), "image": mean}


class OperationGraph(NamedTuple):
    """The names of the inputs and outputs of an operation, and the function that adds its nodes to a graph."""

    inputs: list[str]
    outputs: list[str]
    formula: Callable[[Graph, VAE], Mapping[str, str]]


OPERATION_GRAPHS: dict[str, OperationGraph] = {
    Operation.ENCODE: OperationGraph([PIXELS], ["mean", "logvar"], _encode),
    Operation.DECODE: OperationGraph([LATENTS], ["levels"], _decode),
    Operation.RECONSTRUCT: OperationGraph([PIXELS, LATENTS], ["levels"], _reconstruct),
}


class OnnxOperation:
    """One operation of a model as one graph, on so many threads, with its own weights."""

    def __init__(self, operation: str, vae: VAE, threads: int) -> None:
        self.input_names = OPERATION_GRAPHS[operation].inputs
        self._output_names = OPERATION_GRAPHS[operation].outputs
        self._session = create_session(operation_graph(operation, vae), threads)

    def run(self, rows: RowBatch) -> RowBatch:
        """Compute the operation for a batch."""
        inputs = dict(zip(self.input_names, rows.columns, strict=True))
        return RowBatch(tuple(self._session.run(self._output_names, inputs)))

    def run_unrounded(self, rows: RowBatch) -> RowBatch:
        """Compute the operation, and add the images before they are rounded to grey levels."""
        return RowBatch(tuple(self._session.run(None, dict(zip(self.input_names, rows.columns, strict=True)))))
