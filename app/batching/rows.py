"""Rows of arrays: the input of a request, a batch, and the results of both."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Arrays of equal length that are sliced and joined together, such as pixels and noise.

    These are arrays and not tensors because slicing and joining arrays costs less.
    """

    columns: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, rows: slice) -> "RowBatch":
        return RowBatch(tuple([column[rows] for column in self.columns]))

    @staticmethod
    def join(batches: Sequence["RowBatch"]) -> "RowBatch":
        """Join the rows of all batches, in order."""
        if len(batches) == 1:
            return batches[0]
        columns = zip(*[batch.columns for batch in batches], strict=True)
        return RowBatch(tuple([np.concatenate(arrays) for arrays in columns]))

    def padded(self, rows: int) -> "RowBatch":
        """Append rows of zeros until there are `rows` in all."""
        missing = rows - len(self)
        zeros = [np.zeros((missing, *column.shape[1:]), column.dtype) for column in self.columns]
        return RowBatch.join([self, RowBatch(tuple(zeros))])
