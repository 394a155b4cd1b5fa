"""What torch and ONNX Runtime fail with, in the batcher's words: out of memory, or lost for good."""

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
    """What befell the device; None for a failure that is the batch's own."""
    summary = str(failure).partition("\n")[0]
    if isinstance(failure, MemoryError | torch.OutOfMemoryError) or any(words in summary for words in _NO_MEMORY):
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
    """Give back the device memory that torch keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
