"""In which numbers the networks compute; every density and every sum stays in float32."""

import torch


def networks_in(precision: str, device: torch.device) -> torch.autocast:
    """The context in which convolutions and matrix products on `device` compute in `precision`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def keep_float32() -> None:
    """Let cuDNN compute float32 in full, as all else does: its TF32 would keep 10 of 23 bits."""
    torch.backends.cudnn.allow_tf32 = False
