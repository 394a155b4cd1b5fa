"""What computes the networks: torch, or ONNX Runtime, which takes fewer and larger steps on a processor.

The mathematics around them stays torch's; only the two networks of a VAE are put in the other's hands.
"""

import os

import torch
from torch import Tensor, nn

from app.graph import INPUT, onnx_model
from app.settings import Settings
from model.checkpoint import CheckpointError
from model.vae import VAE

LARGEST = 2**31 - 2**20
"""Bytes of weights that fit into one graph."""

QUIET = 4
"""Of its own log, what is fatal alone: all else that befalls a batch it raises as well."""


class Compiled(nn.Module):
    """A network that ONNX Runtime computes: float32 [B, *shape] to what the network gives."""

    def __init__(self, network: nn.Sequential, shape: tuple[int, ...]) -> None:
        super().__init__()
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else its import begins to tell its maker of machine and model
        import onnxruntime  # noqa: PLC0415

        options = onnxruntime.SessionOptions()
        options.log_severity_level = QUIET
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the event loop wants the cores too
        model = onnx_model(network, shape).SerializeToString()
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def forward(self, x: Tensor) -> Tensor:
        (y,) = self._session.run(None, {INPUT: x.contiguous().numpy()})
        return torch.from_numpy(y)


def choose_runtime(settings: Settings, device: torch.device) -> str:
    """The one that the settings name, or the sooner; a `ValueError` says where ONNX Runtime cannot serve."""
    able = device.type == "cpu" and settings.precision == "float32"
    if settings.runtime == "onnxruntime" and not able:
        msg = f"runtime: onnxruntime serves float32 on a CPU, not {settings.precision} on {device.type}"
        raise ValueError(msg)
    if settings.runtime == "auto":
        return "onnxruntime" if able else "torch"
    return settings.runtime


def compiled(vae: VAE) -> VAE:
    """The VAE with networks that ONNX Runtime computes, on as many threads as torch; it shares no weights with it.

    Raises `CheckpointError` for networks that are too large.
    """
    if (most := max(sum(w.nbytes for w in part.parameters()) for part in vae.children())) > LARGEST:
        msg = f"the weights of a network are {most} bytes; beyond {LARGEST} only VAE_RUNTIME=torch serves them"
        raise CheckpointError(msg)
    with torch.device("meta"):
        other = VAE(vae.config).eval()
    other.encoder.add_module("network", Compiled(vae.encoder.network, vae.config.image_shape))
    other.decoder.add_module("network", Compiled(vae.decoder.network, vae.config.latent_shape))
    return other


def on_device(vae: VAE, device: torch.device) -> VAE:
    """The VAE with its weights on the device, laid out as its convolutions like them best."""
    moved: VAE = vae.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
    return moved
