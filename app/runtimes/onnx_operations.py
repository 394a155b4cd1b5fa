"""Encode, decode and reconstruct as one graph each, from pixels to pixels, that ONNX Runtime computes.

Around the networks each step of torch costs microseconds, and more when caches are cold: for a lone image of a small
model the steps took as long as the networks. The formulas are those that `app.runtimes.operations` follows.
"""

from collections.abc import Callable, Mapping

import numpy as np
from onnx import TensorProto

from app.runtimes.onnx_graph import Graph
from app.runtimes.sessions import session
from model.likelihoods import LEVELS
from model.networks.encoder import MAX_ABS_LOGVAR
from model.vae import VAE

PIXELS, LATENTS = "pixels", "latents"


class OnnxOperation:
    """One operation of a VAE on so many threads, with weights of its own."""

    def __init__(self, operation: str, vae: VAE, threads: int) -> None:
        self.takes, self._gives, formula = _FORMULAS[operation]
        graph = Graph()
        outputs = formula(graph, vae)
        kinds = {
            PIXELS: (TensorProto.UINT8, vae.config.image_shape),
            LATENTS: (TensorProto.FLOAT, vae.config.latent_shape),
        }
        self._session = session(graph.model({name: kinds[name] for name in self.takes}, outputs), threads)

    def __call__(self, *columns: np.ndarray) -> tuple[np.ndarray, ...]:
        """The columns of the answer, as the operation gives them."""
        return self._run(self._gives, columns)

    def tell(self, *columns: np.ndarray) -> tuple[np.ndarray, ...]:
        """The same, and what was rounded to levels, before it was."""
        return self._run(None, columns)

    def _run(self, outputs: list[str] | None, columns: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        return tuple(self._session.run(outputs, dict(zip(self.takes, columns, strict=True))))


def programs(vae: VAE, threads: int) -> dict[str, OnnxOperation]:
    """One for each operation that has one."""
    return {operation: OnnxOperation(operation, vae, threads) for operation in _FORMULAS}


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
    return mean, graph.node("Clip", logvar, graph.number(-MAX_ABS_LOGVAR), graph.number(MAX_ABS_LOGVAR))


def _levels(graph: Graph, vae: VAE, z: str) -> dict[str, str]:
    raw = graph.network(vae.decoder.network, z)
    features = vae.decoder.family.params_per_channel
    location, *_ = graph.nodes("Split", features, raw, axis=1) if features > 1 else [raw]
    mean = graph.node("Sigmoid", location)
    level = graph.node("Round", graph.node("Mul", mean, graph.number(LEVELS - 1)))
    return {"levels": graph.node("Cast", level, to=TensorProto.UINT8), "image": mean}


_Formula = Callable[[Graph, VAE], Mapping[str, str]]
_FORMULAS: dict[str, tuple[list[str], list[str], _Formula]] = {
    "encode": ([PIXELS], ["mean", "logvar"], _encode),
    "decode": ([LATENTS], ["levels"], _decode),
    "reconstruct": ([PIXELS, LATENTS], ["levels"], _reconstruct),
}
