"""What computes the networks: torch, or ONNX Runtime, which takes fewer and larger steps on a processor.

The mathematics around them stays torch's; only the two networks of a VAE are put in the other's hands.
"""

import os

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from app.graph import INPUT, onnx_model
from app.settings import Settings
from model.checkpoint import CheckpointError
from model.vae import VAE

LARGEST = 2**31 - 2**20
"""Bytes of weights that fit into one graph."""

LABORIOUS = 4e8
"""Floating-point operations of one image, both ways, from which on a second core is worth more than it costs."""

QUIET = 4
"""Of its own log, what is fatal alone: all else that befalls a batch it raises as well."""


class Compiled(nn.Module):
    """A network that ONNX Runtime computes on so many threads: float32 [B, *shape] to what the network gives."""

    def __init__(self, network: nn.Sequential, shape: tuple[int, ...], threads: int) -> None:
        super().__init__()
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else its import begins to tell its maker of machine and model
        import onnxruntime  # noqa: PLC0415

        options = onnxruntime.SessionOptions()
        options.log_severity_level = QUIET
        options.intra_op_num_threads = threads
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


def compiled(vae: VAE, threads: int = 1) -> VAE:
    """The VAE with networks that ONNX Runtime computes on so many threads; it shares no weights with it.

    Raises `CheckpointError` for networks that are too large.
    """
    if (most := max(sum(w.nbytes for w in part.parameters()) for part in vae.children())) > LARGEST:
        msg = f"the weights of a network are {most} bytes; beyond {LARGEST} only VAE_RUNTIME=torch serves them"
        raise CheckpointError(msg)
    with torch.device("meta"):
        other = VAE(vae.config).eval()
    other.encoder.add_module("network", Compiled(vae.encoder.network, vae.config.image_shape, threads))
    other.decoder.add_module("network", Compiled(vae.decoder.network, vae.config.latent_shape, threads))
    return other


@torch.inference_mode()
def is_laborious(vae: VAE) -> bool:
    """Whether one image alone is work for more than one core; counted, not timed."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        other = VAE(vae.config)
        other.posterior(torch.empty(1, *vae.config.image_shape))
        other.likelihood(torch.empty(1, *vae.config.latent_shape))
    operations: int = counter.get_total_flops()
    return operations >= LABORIOUS


def on_device(vae: VAE, device: torch.device) -> VAE:
    """The VAE with its weights on the device, laid out as its convolutions like them best."""
    moved: VAE = vae.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
    return moved
