"""The batch key of a model: which requests share batches, and how a batch is padded and computed."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.batching.executor import OutOfMemory
from app.batching.policy import BatchPolicy
from app.batching.rows import RowBatch
from app.inference.device import DeviceModel
from model.interruption import Check, check_interruption, interruptible_by


@dataclass(frozen=True, slots=True)
class ModelBatchKey:
    """The batch key of an operation by one model: requests share a batch if model, operation and draws are the same.

    `weight` is the number of items that a row counts as: its draws over those that each score has, or its pixels over
    those of an image of the default size. `size` is that of the images if the model has several. `sizes` are those that
    batches are padded to; without any, rows are computed one by one. `tiles` is the model that computes an image in
    tiles if there is no memory for it as a whole.
    """

    model: DeviceModel
    operation: str
    deterministic: bool = False
    weight: int = 1
    size: tuple[int, int] | None = None
    sizes: Sequence[int] = field(default=(), compare=False)
    policy: BatchPolicy = field(default=BatchPolicy(), compare=False)
    tiles: DeviceModel | None = field(default=None, compare=False)

    def stack(self, parts: Sequence[RowBatch]) -> RowBatch:
        """Join the parts, padded with zeros to one of the sizes."""
        batch = parts[0] if len(parts) == 1 else RowBatch.join(parts)
        if not self.sizes:
            return batch
        rows = len(batch)
        size = self.sizes[bisect_left(self.sizes, rows)]
        return batch if size == rows else batch.padded(size)

    def run(self, batch: RowBatch, *, single: bool, check: Check) -> RowBatch:
        """Compute the batch on the device; `check` is called between its rows, tiles and layers."""
        if self.sizes and self.size is None:
            return self.model.run(self.operation, batch, deterministic=self.deterministic, single=single)
        with interruptible_by(check):
            if self.sizes and (self.tiles is None or len(batch) > 1):
                return self.model.run(self.operation, batch, deterministic=self.deterministic, single=single)
            return RowBatch.join([self._run_row(batch[row : row + 1]) for row in range(len(batch))])

    def _run_row(self, row: RowBatch) -> RowBatch:
        check_interruption()
        try:
            return self.model.run(self.operation, row, deterministic=self.deterministic)
        except OutOfMemory:
            if self.tiles is None:
                raise
        return self.tiles.run(self.operation, row, deterministic=self.deterministic)
