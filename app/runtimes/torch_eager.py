"""PyTorch in eager mode: computes any model on any device."""

from collections.abc import Sequence

import torch
from torch import nn

from app.batching.rows import RowBatch
from app.runtimes.base import CompiledModel, Target
from app.runtimes.batch_invariance import model_is_batch_invariant
from app.runtimes.operations import OPERATIONS
from model.device import autocast
from model.formats.native import NativeModel
from model.interface import ImageModel


class TorchModel:
    """A model that torch computes operation by operation; `model` has its weights on the device."""

    runtime = "torch"
    uniform = True
    has_single_row_networks = False

    def __init__(self, model: ImageModel, target: Target) -> None:
        self.model = model
        self.target = target

    @torch.inference_mode()
    def run(self, operation: str, rows: RowBatch, *, deterministic: bool = True, single: bool = False) -> RowBatch:  # noqa: ARG002  # the interface has them
        device = self.target.device
        with autocast(self.target.precision, device):
            inputs = [torch.from_numpy(column).to(device, non_blocking=True) for column in rows.columns]
            results = OPERATIONS[operation](self.model, *inputs)
            return RowBatch(tuple([column.cpu().numpy() for column in results]))

    def prepare(self, operation: str, rows: RowBatch) -> None:
        """Torch needs no preparation."""

    @torch.inference_mode()
    def is_batch_invariant(self, sizes: Sequence[int], until: float) -> bool:
        if self.target.device.type == "cpu":
            return False  # oneDNN chooses another kernel for almost every size
        with autocast(self.target.precision, self.target.device):
            return model_is_batch_invariant(self.model, sizes, self.model, self.target.device, until)

    def fallback(self) -> CompiledModel | None:
        return None


class TorchRuntime:
    """Compiles models for torch."""

    def compile(self, model: ImageModel, target: Target) -> TorchModel:
        """Move the weights to the device, in the memory format that its convolutions prefer.

        In float32 other models than those of this project stay contiguous: on a CPU the group normalization of torch
        2.13 loses half of its digits in `channels_last` where the values of a group are nearly equal.
        """
        module = model.vae if isinstance(model, NativeModel) else model
        if isinstance(module, nn.Module):
            native_cpu = isinstance(model, NativeModel) and target.device.type == "cpu"
            plain = target.precision == "float32" and not native_cpu
            layout = torch.contiguous_format if plain else torch.channels_last
            module.to(target.device).to(memory_format=layout)  # type: ignore[call-overload]  # missing from torch's stubs
        return TorchModel(model, target)
