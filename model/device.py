"""Numeric precision of the networks; densities and sums are always computed in float32."""

import torch

_LOWER = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return a context in which convolutions and matrix products on `device` use `precision`."""
    lower = _LOWER.get(precision)
    return torch.autocast(device.type, dtype=lower or torch.bfloat16, enabled=lower is not None)


def disable_tf32() -> None:
    """Make cuDNN compute float32 with all 23 bits of the mantissa; TF32 would keep 10."""
    torch.backends.cudnn.allow_tf32 = False
