"""Two runtimes for one model: ONNX Runtime computes deterministic batches, a faster runtime all others."""

from collections.abc import Sequence

from app.batching.rows import RowBatch
from app.runtimes.base import CompiledModel, Runtime, Target
from app.runtimes.onnx import OnnxModel, OnnxRuntime
from model.interface import ImageModel


class MixedModel:
    """A model that is compiled twice; `fast` computes the batches without a seed.

    A `single` row is computed by ONNX Runtime as well, if that may use more threads for it.
    """

    uniform = False

    def __init__(self, deterministic: OnnxModel, fast: CompiledModel) -> None:
        self.runtime = fast.runtime
        self._deterministic = deterministic
        self._fast = fast
        self.has_single_row_networks = deterministic.has_single_row_networks

    @property
    def model(self) -> ImageModel:
        return self._deterministic.model

    def run(self, operation: str, rows: RowBatch, *, deterministic: bool, single: bool = False) -> RowBatch:
        if deterministic or (single and self.has_single_row_networks):
            return self._deterministic.run(operation, rows, deterministic=deterministic, single=single)
        return self._fast.run(operation, rows, deterministic=False)

    def prepare(self, operation: str, rows: RowBatch) -> None:
        self._fast.prepare(operation, rows)

    def is_batch_invariant(self, sizes: Sequence[int], until: float) -> bool:
        return self._deterministic.is_batch_invariant(sizes, until)

    def fallback(self) -> CompiledModel | None:
        return None


class MixedRuntime:
    """Compiles models for ONNX Runtime and for a faster runtime."""

    def __init__(self, fast: Runtime) -> None:
        self._fast = fast

    def compile(self, model: ImageModel, target: Target) -> MixedModel:
        """Compile the networks for both runtimes."""
        return MixedModel(OnnxRuntime(fused=False).compile(model, target), self._fast.compile(model, target))
