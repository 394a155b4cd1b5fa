"""ONNX Runtime: computes graphs on a CPU in fewer and larger steps than torch.

Of a small model each operation is one graph, from pixels to pixels: around the networks each step of torch costs
microseconds, as long as a small network takes for one image. Of other models the networks are graphs, and torch
computes the steps around them.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from app.batching.rows import RowBatch
from app.context import Operation
from app.runtimes.base import CompiledModel, Target
from app.runtimes.batch_invariance import graph_is_batch_invariant, model_is_batch_invariant
from app.runtimes.flops import is_compute_bound
from app.runtimes.onnx_export import INPUT, onnx_model
from app.runtimes.onnx_operations import OPERATION_GRAPHS, OnnxOperation
from app.runtimes.onnx_session import create_session
from app.runtimes.torch_eager import TorchModel
from app.runtimes.verification import differing
from model.files import CheckpointError
from model.formats.native import NativeModel
from model.interface import ImageModel
from model.vae import VAE

log = logging.getLogger(__name__)

MAX_GRAPH_BYTES = 2**31 - 2**20
"""Bytes of weights that fit into one graph."""

MAX_COPIED_BYTES = 2**26
"""Bytes of the weights of a network up to which further copies of them are made for speed."""

Network = Callable[[nn.Sequential, tuple[int, ...], int], nn.Module]


class OnnxNetwork(nn.Module):
    """A network that ONNX Runtime computes on so many threads, from float32 [B, *shape]; it has its own weights."""

    def __init__(self, network: nn.Sequential, shape: tuple[int, ...], threads: int) -> None:
        super().__init__()
        self._session = create_session(onnx_model(network, shape), threads)

    def forward(self, x: Tensor) -> Tensor:
        (y,) = self._session.run(None, {INPUT: x.contiguous().numpy()})
        return torch.from_numpy(y)


class OnnxModel:
    """A model with graphs for its networks, or for entire operations.

    `batched` computes batches. `single_row` computes one row on more threads; it is `batched` itself where a second
    copy of the weights does not pay. `operations` are those that are one graph each.
    """

    runtime = "onnxruntime"
    uniform = True

    def __init__(self, batched: TorchModel, single_row: TorchModel, operations: Mapping[str, OnnxOperation]) -> None:
        self._batched = batched
        self._single_row = single_row
        self.operations = operations

    @property
    def model(self) -> ImageModel:
        return self._batched.model

    @property
    def has_single_row_networks(self) -> bool:
        """Whether one row is computed on more threads than a batch."""
        return self._single_row is not self._batched

    def run(self, operation: str, rows: RowBatch, *, deterministic: bool = True, single: bool = False) -> RowBatch:  # noqa: ARG002  # all batches are deterministic
        if graph := self.operations.get(operation):
            return graph.run(rows)
        if operation == Operation.DECODE_FLOATS and (graph := self.operations.get(Operation.DECODE)):
            return RowBatch(graph.run_unrounded(rows).columns[-1:])
        return (self._single_row if single else self._batched).run(operation, rows)

    def prepare(self, operation: str, rows: RowBatch) -> None:
        """ONNX Runtime needs no preparation."""

    @torch.inference_mode()
    def is_batch_invariant(self, sizes: Sequence[int], until: float) -> bool:
        if not self.operations:
            return model_is_batch_invariant(self.model, sizes, self._single_row.model, until=until)
        return all(graph_is_batch_invariant(graph, self.model.spec, sizes, until) for graph in self.operations.values())

    def fallback(self) -> CompiledModel | None:
        return OnnxModel(self._batched, self._single_row, {}) if self.operations else None


class OnnxRuntime:
    """Compiles models of this project for ONNX Runtime; `fused` makes whole operations graphs where that pays."""

    def __init__(self, *, fused: bool = True) -> None:
        self._fused = fused

    def compile(self, model: ImageModel, target: Target) -> OnnxModel:
        """Compile the networks, and the operations of a small model."""
        vae = native_vae(model)
        batched = single = TorchModel(with_networks(model, target.threads), target)
        if target.max_threads > target.threads and is_compute_bound(vae):
            single = TorchModel(with_networks(model, target.max_threads), target)
        small = not is_compute_bound(vae) and largest_network_bytes(vae) <= MAX_COPIED_BYTES
        return OnnxModel(batched, single, _verified_operations(vae, target.threads) if self._fused and small else {})


def native_vae(model: ImageModel) -> VAE:
    """Return the VAE of a model of this project. Raises `CheckpointError` for other models."""
    if not isinstance(model, NativeModel):
        raise CheckpointError(f"a model in the format {model.spec.format} is served by VAE_RUNTIME=torch")
    return model.vae


def with_networks(model: ImageModel, threads: int = 1, network: Network = OnnxNetwork) -> NativeModel:
    """Return the model with networks that another runtime computes on so many threads; it shares no weights with it.

    Raises `CheckpointError` for networks that are too large for a graph.
    """
    vae = native_vae(model)
    if (most := largest_network_bytes(vae)) > MAX_GRAPH_BYTES:
        msg = f"the weights of a network are {most} bytes; beyond {MAX_GRAPH_BYTES} only VAE_RUNTIME=torch serves them"
        raise CheckpointError(msg)
    with torch.device("meta"):
        other = VAE(vae.config).eval()
    other.encoder.add_module("network", network(vae.encoder.network, vae.config.image_shape, threads))
    other.decoder.add_module("network", network(vae.decoder.network, vae.config.latent_shape, threads))
    return NativeModel(other, model.spec)


def largest_network_bytes(vae: VAE) -> int:
    """Return the bytes of the weights of the larger network."""
    return max(sum(weight.nbytes for weight in part.parameters()) for part in vae.children())


def _verified_operations(vae: VAE, threads: int) -> dict[str, OnnxOperation]:
    """Return a graph for each operation that has one; none if torch computes other results than one of them."""
    operations = {operation: OnnxOperation(operation, vae, threads) for operation in OPERATION_GRAPHS}
    if wrong := list(differing(vae, operations)):
        text = "%s: the ONNX graph gives other results than torch; torch computes the steps around the networks"
        log.warning(text, ", ".join(wrong))
        return {}
    return operations
