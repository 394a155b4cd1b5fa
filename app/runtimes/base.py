"""The interface of a runtime: it compiles a model for a device, and the compiled model runs operations on batches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from app.batching.rows import RowBatch
from model.interface import ImageModel, ModelSpec


@dataclass(frozen=True, slots=True)
class Target:
    """The device that a model is compiled for.

    Batches use `threads` CPU threads. A single row may use up to `max_threads` while no other worker computes.
    """

    device: torch.device
    precision: str = "float32"
    threads: int = 1
    max_threads: int = 1

    def for_model(self, spec: ModelSpec) -> "Target":
        """Return the target with the precision that a model is computed in: not float16 if it overflows there."""
        overflows = self.precision == "float16" and spec.overflows_float16
        return replace(self, precision="float32") if overflows else self


class CompiledModel(Protocol):
    """A model on a device.

    `runtime` is the name of the runtime. With `uniform`, deterministic and other batches are computed in the same
    way. `model` is the model as torch sees it, for operations that the runtime leaves to torch.
    With `has_single_row_networks`, a `single` row is computed differently from a batch of one row.
    """

    @property
    def runtime(self) -> str: ...
    @property
    def uniform(self) -> bool: ...
    @property
    def has_single_row_networks(self) -> bool: ...
    @property
    def model(self) -> ImageModel: ...

    def run(self, operation: str, rows: RowBatch, *, deterministic: bool, single: bool = False) -> RowBatch:
        """Compute an operation for a batch, in rows of the same order.

        In `deterministic` batches of the sizes for which `is_batch_invariant` holds, each row has the same bits in any
        batch. `single` is one row while no other worker computes: it may use all CPU cores.
        """

    def prepare(self, operation: str, rows: RowBatch) -> None:
        """Prepare for batches of this shape, if the runtime gains from it."""

    def is_batch_invariant(self, sizes: Sequence[int], until: float) -> bool:
        """Whether deterministic rows have the same bits in batches of all these sizes.

        False as well if that is not known `until` then, in seconds of `time.monotonic`.
        """

    def fallback(self) -> "CompiledModel | None":
        """Return the model compiled with fewer optimizations, to be tried if it is not batch invariant."""


class Runtime(Protocol):
    """A way to compute a model."""

    def compile(self, model: ImageModel, target: Target) -> CompiledModel:
        """Compile a model for a device. Raises `CheckpointError` for a model that the runtime cannot compute."""
