"""CUDA graphs: a batch of one shape on a GPU is captured once and replayed as a whole.

The many small kernels of a network take longer to launch than to compute. A replay launches all of them at once, on the
same memory.
"""

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from app.batching.rows import RowBatch
from app.runtimes.base import CompiledModel, Target
from app.runtimes.operations import OPERATIONS
from app.runtimes.torch_eager import TorchModel, TorchRuntime
from model.device import autocast
from model.interface import ImageModel


class CudaGraph:
    """One operation on batches of the shape of `example`.

    It uses the memory pool of the graph `shared_pool`, since two graphs never run at the same time.
    """

    _stream: torch.cuda.Stream

    @torch.inference_mode()
    def __init__(
        self,
        operation: Callable[..., tuple[Tensor, ...]],
        example: RowBatch,
        device: torch.device,
        shared_pool: Self | None = None,
    ) -> None:
        self._device = device
        self._pinned_inputs = tuple(torch.from_numpy(column).pin_memory() for column in example.columns)
        self._inputs = tuple(column.to(device) for column in self._pinned_inputs)
        with torch.cuda.device(device):
            self._graph = torch.cuda.CUDAGraph()
            self._stream = shared_pool._stream if shared_pool else torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own
            with torch.cuda.stream(self._stream):
                self._stream.wait_stream(torch.cuda.default_stream())
                operation(*self._inputs)  # the first run chooses kernels and allocates, which cannot be captured
                pool = shared_pool._graph.pool() if shared_pool else None
                with torch.cuda.graph(self._graph, pool, self._stream, capture_error_mode="thread_local"):
                    self._results = operation(*self._inputs)
        self._pinned_results = tuple(torch.empty_like(result, device="cpu").pin_memory() for result in self._results)

    @torch.inference_mode()
    def __call__(self, batch: RowBatch) -> RowBatch:
        """Compute a batch; not for two threads at once."""
        with torch.cuda.device(self._device):
            for pinned, there, column in zip(self._pinned_inputs, self._inputs, batch.columns, strict=True):
                np.copyto(pinned.numpy(), column)
                there.copy_(pinned, non_blocking=True)
            self._graph.replay()
            for pinned, result in zip(self._pinned_results, self._results, strict=True):
                pinned.copy_(result, non_blocking=True)
            torch.cuda.current_stream().synchronize()
        return RowBatch(tuple(pinned.numpy().copy() for pinned in self._pinned_results))


class CudaGraphModel:
    """A model of which each shape of batch that was prepared is a CUDA graph; torch computes all other shapes."""

    runtime = "torch"
    uniform = True
    has_single_row_networks = False

    def __init__(self, eager: TorchModel) -> None:
        self._eager = eager
        self._graphs: dict[tuple[object, ...], CudaGraph] = {}

    @property
    def model(self) -> ImageModel:
        return self._eager.model

    def run(self, operation: str, rows: RowBatch, *, deterministic: bool = True, single: bool = False) -> RowBatch:
        graph = self._graphs.get(_shape(operation, rows))
        return graph(rows) if graph else self._eager.run(operation, rows, deterministic=deterministic, single=single)

    def prepare(self, operation: str, rows: RowBatch) -> None:
        """Capture the operation for batches of this shape."""
        if (shape := _shape(operation, rows)) in self._graphs:
            return
        function, target = OPERATIONS[operation], self._eager.target

        def compute(*inputs: Tensor) -> tuple[Tensor, ...]:
            with autocast(target.precision, target.device):  # inside, so that the casts of the weights are captured
                return function(self._eager.model, *inputs)

        first = next(iter(self._graphs.values()), None)
        self._graphs[shape] = CudaGraph(compute, rows, target.device, first)

    def is_batch_invariant(self, sizes: Sequence[int], until: float) -> bool:
        return self._eager.is_batch_invariant(sizes, until)

    def fallback(self) -> CompiledModel | None:
        return None


class CudaGraphRuntime:
    """Compiles models for torch on a GPU."""

    def compile(self, model: ImageModel, target: Target) -> CudaGraphModel:
        """Move the weights to the GPU; `prepare` captures the graphs."""
        return CudaGraphModel(TorchRuntime().compile(model, target))


def _shape(operation: str, rows: RowBatch) -> tuple[object, ...]:
    return (operation, *[column.shape for column in rows.columns])
