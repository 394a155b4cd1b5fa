"""Substitutes for a runtime."""

from collections.abc import Callable, Sequence

import torch

from app.batching.rows import RowBatch
from app.runtimes.base import CompiledModel, Target
from app.runtimes.torch_eager import TorchModel, TorchRuntime
from app.settings import Settings
from model.interface import ImageModel

Before = Callable[[str, RowBatch, bool], None]


class InterceptedModel(TorchModel):
    """A model that torch computes; `before` is called with operation, rows and `single` before each batch."""

    has_single_row_networks = True

    def __init__(self, model: ImageModel, target: Target, before: Before) -> None:
        super().__init__(model, target)
        self._before = before

    def run(self, operation: str, rows: RowBatch, *, deterministic: bool = True, single: bool = False) -> RowBatch:
        self._before(operation, rows, single)
        return super().run(operation, rows, deterministic=deterministic, single=single)

    def is_batch_invariant(self, sizes: Sequence[int], until: float) -> bool:
        return False


def intercepted(before: Before) -> Callable[[ImageModel, Settings, Target], CompiledModel]:
    """Return a function that compiles models which call `before` for each batch."""

    def compile_model(model: ImageModel, settings: Settings, target: Target) -> CompiledModel:
        with torch.inference_mode():
            return InterceptedModel(TorchRuntime().compile(model, target).model, target, before)

    return compile_model
