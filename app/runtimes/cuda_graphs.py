"""Batches of one shape on a GPU, recorded once and replayed: to launch its many small steps takes longer than they do.

CUDA graphs: what was launched once is launched again as a whole, on the same memory.
"""

from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from torch import Tensor

from app.batching.rows import RowBatch


class CudaGraph:
    """One operation on batches of the shape of `example`, in the memory of one `beside` that never works meanwhile."""

    _stream: torch.cuda.Stream

    @torch.inference_mode()
    def __init__(
        self,
        operation: Callable[..., tuple[Tensor, ...]],
        example: RowBatch,
        device: torch.device,
        beside: Self | None = None,
    ) -> None:
        self._device = device
        self._sent = tuple(torch.from_numpy(column).pin_memory() for column in example.columns)
        self._there = tuple(column.to(device) for column in self._sent)
        with torch.cuda.device(device):
            self._graph = torch.cuda.CUDAGraph()
            self._stream = beside._stream if beside else torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own
            with torch.cuda.stream(self._stream):
                self._stream.wait_stream(torch.cuda.default_stream())
                operation(*self._there)  # what is chosen and allocated at first cannot be recorded
                pool = beside._graph.pool() if beside else None
                with torch.cuda.graph(self._graph, pool, self._stream, capture_error_mode="thread_local"):
                    self._answers = operation(*self._there)
        self._got = tuple(torch.empty_like(answer, device="cpu").pin_memory() for answer in self._answers)

    @torch.inference_mode()
    def __call__(self, batch: RowBatch) -> RowBatch:
        """The batch's answers; for one caller at a time."""
        with torch.cuda.device(self._device):
            for sent, there, column in zip(self._sent, self._there, batch.columns, strict=True):
                np.copyto(sent.numpy(), column)
                there.copy_(sent, non_blocking=True)
            self._graph.replay()
            for got, answer in zip(self._got, self._answers, strict=True):
                got.copy_(answer, non_blocking=True)
            torch.cuda.current_stream().synchronize()
        return RowBatch(tuple(got.numpy().copy() for got in self._got))
