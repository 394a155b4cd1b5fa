"""Small autoencoders of diffusers with random weights, one of each class and kind of config that is served."""

from pathlib import Path
from typing import Any

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="the extra diffusers is not installed")

_BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
_SMALL = {"block_out_channels": (8, 16, 16, 16), "norm_num_groups": 4, "layers_per_block": 1, **_BLOCKS}
_EFFICIENT = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
_NO_QUANT = {"use_quant_conv": False, "use_post_quant_conv": False}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "kl": ("AutoencoderKL", {**_SMALL, "sample_size": 64}),
    "kl8": (
        "AutoencoderKL",
        {**_SMALL, "latent_channels": 8, "latents_mean": [0.1] * 8, "latents_std": [0.5 + n / 8 for n in range(8)]},
    ),
    "kl16": (
        "AutoencoderKL",
        {**_SMALL, **_NO_QUANT, "latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159},
    ),
    "kl32": ("AutoencoderKL", {**_SMALL, "latent_channels": 32, "force_upcast": False}),
    "flux2": ("AutoencoderKLFlux2", {**_SMALL, "sample_size": 64}),
    "tiny": (
        "AutoencoderTiny",
        {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4},
    ),
    "dc": (
        "AutoencoderDC",
        {
            "encoder_block_out_channels": (8,) * 6,
            "decoder_block_out_channels": (8,) * 6,
            "encoder_layers_per_block": (1,) * 6,
            "decoder_layers_per_block": (1,) * 6,
            "encoder_block_types": _EFFICIENT,
            "decoder_block_types": _EFFICIENT,
            "attention_head_dim": 8,
            "latent_channels": 8,
            "scaling_factor": 0.41407,
        },
    ),
}
DETERMINISTIC = ("tiny", "dc")


def build(name: str, seed: int = 0) -> Any:
    """Return an autoencoder with random weights."""
    torch.manual_seed(seed)
    class_name, config = CONFIGS[name]
    return getattr(diffusers, class_name)(**config).eval()


def write(folder: Path, name: str, seed: int = 0, **options: Any) -> Path:
    """Write an autoencoder as diffusers does; `options` are those of `save_pretrained`."""
    build(name, seed).save_pretrained(folder, **options)
    return folder


def code_of(encoded: Any) -> torch.Tensor:
    """Return the mean, or the deterministic code, of an output of `encode`."""
    return encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded[0]
