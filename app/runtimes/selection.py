"""What computes the networks of a served VAE: torch, ONNX Runtime, or for the batches of a large model MNN.

The mathematics around them stays torch's; only the two networks of a VAE are put in the other's hands.
"""

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from torch import nn

from app.runtimes.onnx_program import OnnxOperation, programs
from app.runtimes.sessions import MnnNetwork, OnnxNetwork
from app.runtimes.verification import differing
from app.settings import Settings
from model.checkpoint import CheckpointError
from model.networks.blocks import Residual
from model.vae import VAE

log = logging.getLogger(__name__)

LARGEST = 2**31 - 2**20
"""Bytes of weights that fit into one graph."""

LABORIOUS = 4e8
"""Floating-point operations of one image, both ways, from which on other ways to compute it are worth more copies."""

COPIED = 2**26
"""Bytes of a network's weights up to which copies are made unasked: by MNN, which keeps several times as much, or for
programs."""

Network = Callable[[nn.Sequential, tuple[int, ...], int], nn.Module]


@dataclass(frozen=True, slots=True)
class CompiledNetworks:
    """One VAE as it computes each kind of work, by the `runtime` of that name.

    `exact` is for batches whose rows are held to the bit, `swift` for all other batches, `alone` for one row that has
    the machine for itself, with the bits of `exact`; two of them are one where a second copy is not worth its memory.
    `programs` are the operations that have one, of a VAE for which the steps around the networks count.
    """

    runtime: str
    exact: VAE
    swift: VAE
    alone: VAE
    programs: Mapping[str, OnnxOperation] = field(default_factory=dict)


def networks(vae: VAE, settings: Settings, device: torch.device, threads: int, most_threads: int) -> CompiledNetworks:
    """The VAE ready for the device, its batches on so many `threads`, one row alone on up to `most_threads`.

    Raises `CheckpointError` for networks that are too large, `ValueError` as `choose_runtime` does.
    """
    runtime = choose_runtime(settings, device, vae)
    if runtime == "torch":
        moved = _on_device(vae, device, settings.precision)
        return CompiledNetworks(runtime, moved, moved, moved)
    exact = compiled(vae, threads)
    swift = compiled(vae, threads, MnnNetwork) if runtime == "mnn" else exact
    laborious = is_laborious(vae)
    alone = compiled(vae, most_threads) if most_threads > threads and laborious else exact
    steps_count = runtime == "onnxruntime" and not laborious and _bytes(vae) <= COPIED
    return CompiledNetworks(runtime, exact, swift, alone, _verified_programs(vae, threads) if steps_count else {})


def _verified_programs(vae: VAE, threads: int) -> dict[str, OnnxOperation]:
    """The programs of a VAE; none if torch gives other results than one of them."""
    made = programs(vae, threads)
    if wrong := list(differing(vae, made)):
        text = "%s: the ONNX program gives other results than torch; torch computes what is around the networks"
        log.warning(text, ", ".join(wrong))
        return {}
    return made


def choose_runtime(settings: Settings, device: torch.device, vae: VAE) -> str:
    """The one that the settings name, or the soonest; a `ValueError` says what it cannot serve."""
    able = device.type == "cpu" and settings.precision == "float32"
    if settings.runtime in ("onnxruntime", "mnn") and not able:
        msg = f"runtime: {settings.runtime} serves float32 on a CPU, not {settings.precision} on {device.type}"
        raise ValueError(msg)
    if settings.runtime == "mnn" and (settings.batch_invariant or sys.platform != "linux"):
        raise ValueError("runtime: mnn serves on Linux, where answers may depend on the load in their last bits")
    if settings.runtime != "auto":
        return settings.runtime
    if not able:
        return "torch"
    free = sys.platform == "linux" and not settings.batch_invariant
    return "mnn" if free and _bytes(vae) <= COPIED and is_laborious(vae) else "onnxruntime"


def compiled(vae: VAE, threads: int = 1, network: Network = OnnxNetwork) -> VAE:
    """The VAE with networks that another runtime computes on so many threads; it shares no weights with it.

    Raises `CheckpointError` for networks that are too large.
    """
    if (most := _bytes(vae)) > LARGEST:
        msg = f"the weights of a network are {most} bytes; beyond {LARGEST} only VAE_RUNTIME=torch serves them"
        raise CheckpointError(msg)
    with torch.device("meta"):
        other = VAE(vae.config).eval()
    other.encoder.add_module("network", network(vae.encoder.network, vae.config.image_shape, threads))
    other.decoder.add_module("network", network(vae.decoder.network, vae.config.latent_shape, threads))
    return other


def is_laborious(vae: VAE) -> bool:
    """Whether one image is so much work that it should be computed otherwise; counted, not timed."""
    return operations(vae) >= LABORIOUS


def operations(vae: VAE) -> int:
    """The floating-point operations of one image, both ways, as `torch.utils.flop_counter` counts them.

    Its way takes torch two seconds, in which it loads what it knows of shapes.
    """
    config = vae.config
    return _operations(vae.encoder.network, config.image_shape) + _operations(vae.decoder.network, config.latent_shape)


def _operations(network: nn.Sequential, shape: tuple[int, ...]) -> int:
    """Those of one row [*shape]: a product and a sum for each weight at each place where it is applied."""
    total = 0
    for piece in network:
        if isinstance(piece, nn.Linear):
            total += 2 * piece.weight.numel()
        elif isinstance(piece, nn.Unflatten):
            shape = tuple(map(int, piece.unflattened_size))
        elif isinstance(piece, Residual):
            total += _operations(nn.Sequential(piece.first, piece.second), shape)
        elif isinstance(piece, nn.Conv2d | nn.ConvTranspose2d):
            grid = _grid(piece, shape[1:])
            where = shape[1:] if isinstance(piece, nn.ConvTranspose2d) else grid
            total += 2 * piece.weight.numel() * prod(where)
            shape = (piece.out_channels, *grid)
    return total


def _grid(piece: nn.Conv2d | nn.ConvTranspose2d, grid: tuple[int, ...]) -> tuple[int, ...]:
    """Height and width of what a convolution gives for an input of `grid`."""
    ways = zip(grid, piece.kernel_size, piece.stride, map(int, piece.padding), piece.output_padding, strict=True)
    if isinstance(piece, nn.ConvTranspose2d):
        return tuple((size - 1) * stride - 2 * pad + kernel + more for size, kernel, stride, pad, more in ways)
    return tuple((size + 2 * pad - kernel) // stride + 1 for size, kernel, stride, pad, _ in ways)


def _bytes(vae: VAE) -> int:
    """What the weights of its larger network take."""
    return max(sum(weight.nbytes for weight in part.parameters()) for part in vae.children())


def _on_device(vae: VAE, device: torch.device, precision: str) -> VAE:
    """The VAE with its weights on the device, laid out as its convolutions like them best."""
    plain = device.type == "cuda" and precision == "float32"
    layout = torch.contiguous_format if plain else torch.channels_last
    moved: VAE = vae.to(device).to(memory_format=layout)  # type: ignore[call-overload]  # missing from torch's stubs
    return moved
