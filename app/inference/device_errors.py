"""Classification of the errors of torch, ONNX Runtime and MNN: out of memory, device lost, or an error of the batch."""

import torch

from app.batching.executor import DeviceLost, OutOfMemory

_NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "Failed to allocate memory",
    "ALLOC_FAILED",
    "bad_alloc",
)


def diagnose(failure: Exception, device: torch.device) -> OutOfMemory | DeviceLost | None:
    """Return what has happened to the device; None for an error of the batch."""
    summary = str(failure).partition("\n")[0]
    if isinstance(failure, MemoryError | torch.OutOfMemoryError) or any(text in summary for text in _NO_MEMORY):
        return OutOfMemory(summary)
    return None if works(device) else DeviceLost(summary)


def works(device: torch.device) -> bool:
    """Whether the device still computes: after an illegal access a GPU fails at everything, until the process ends."""
    try:
        return torch.ones(1, device=device).add(1).item() == 2
    except torch.OutOfMemoryError:
        return True
    except RuntimeError:
        return False


def release(device: torch.device) -> None:
    """Free the device memory that torch caches."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
