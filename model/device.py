"""Numeric precision of the networks; densities and sums are always computed in float32."""

import torch


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return a context in which convolutions and matrix products on `device` use `precision`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def disable_tf32() -> None:
    """Make cuDNN compute float32 with all 23 bits of the mantissa; TF32 would keep 10."""
    torch.backends.cudnn.allow_tf32 = False
