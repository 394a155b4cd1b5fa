"""The number of floating-point operations of a model, counted without computing it."""

import copy
from math import prod
from typing import NamedTuple, cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model.formats.native import NativeModel
from model.formats.onnx.flops import Work
from model.formats.onnx.pair import OnnxPair
from model.interface import ImageModel, ModelSpec, MultipleOfFactor
from model.networks.blocks import Residual
from model.vae import VAE

COMPUTE_BOUND_FLOPS = 4e8
"""Operations of one image, encoded and decoded, above which further copies of the weights pay off."""

GROWTH_SIDE = 4096
"""Pixels of the side of an image that is compared with one a quarter as long; no values are computed."""

VALUE_BYTES = 4
"""Bytes of a value in a graph, a float32; those of float16 take less."""


class Growth(NamedTuple):
    """What attention adds to an image of n pixels: it works on each pair of them.

    The operations are c * n * (1 + `flops` * n). `memory` is the number of bytes for each pair.
    """

    flops: float = 0.0
    memory: float = 0.0


def is_compute_bound(vae: VAE) -> bool:
    """Whether one image is so much work that the steps around the networks do not count."""
    return count_flops(vae) >= COMPUTE_BOUND_FLOPS


def count_flops(vae: VAE) -> int:
    """Count the operations to encode and decode one image, as `torch.utils.flop_counter` does in two seconds."""
    return sum(_vae_flops(vae))


def flops_of(model: ImageModel) -> tuple[int, int] | None:
    """Count the operations to encode and to decode one image of the default size; None if they are unknown."""
    if isinstance(model, NativeModel):
        return _vae_flops(model.vae)
    work = _work(model, model.spec)
    return None if work is None else (work[0].flops, work[1].flops)


def growth_of(model: ImageModel) -> tuple[Growth, Growth, Growth]:
    """Return what attention adds to encode, to decode, and to do both; nothing where it cannot be counted.

    Torch computes attention without the memory for each pair of pixels, a graph may compute it with that.
    """
    rule = model.spec.sizes
    unknown = (Growth(),) * 3
    if not isinstance(rule, MultipleOfFactor):
        return unknown
    large = rule.fitted(GROWTH_SIDE, GROWTH_SIDE)
    small = rule.fitted(large[0] // 4, large[1] // 4)
    less, more = (_work(model, model.spec.at(*size)) for size in (small, large))
    if less is None or more is None or small == large:
        return unknown
    pixels = prod(small), prod(large)
    encode, decode = (_growth(*pair, pixels) for pair in zip(less, more, strict=True))
    return encode, decode, _growth(_both(*less), _both(*more), pixels)


def _work(model: ImageModel, spec: ModelSpec) -> tuple[Work, Work] | None:
    """Count the work to encode and to decode an image of the default size of `spec`."""
    if isinstance(model, OnnxPair):
        return model.work(spec)
    if not isinstance(model, nn.Module):
        return None
    encode, decode = _module_flops(model, spec)
    return Work(encode, 0), Work(decode, 0)


def _both(encode: Work, decode: Work) -> Work:
    """Return the work of one after the other."""
    return Work(encode.flops + decode.flops, max(encode.values, decode.values))


def _growth(small: Work, large: Work, pixels: tuple[int, int]) -> Growth:
    """Return the growth from the work for images of two numbers of pixels."""
    (flops, more_flops), (values, more_values) = (
        [count / n for count, n in zip(counts, pixels, strict=True)] for counts in zip(small, large, strict=True)
    )
    distance = pixels[1] - pixels[0]
    slope = max(0.0, more_flops - flops) / distance
    pairs = max(0.0, more_values - values) / distance
    return Growth(slope / max(1.0, flops - slope * pixels[0]), VALUE_BYTES * pairs)


def _module_flops(model: nn.Module, spec: ModelSpec) -> tuple[int, int]:
    """Count by torch for an image of the default size of `spec`, for a copy without memory for its weights."""
    weights = {id(tensor): tensor.to("meta") for tensor in (*model.parameters(), *model.buffers())}
    empty = cast("ImageModel", copy.deepcopy(model, weights))
    shapes = (1, *spec.image_shape), (1, *spec.latent_shape)
    image, latent = (torch.empty(shape, device="meta") for shape in shapes)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        empty.posterior(image)
        encode = counter.get_total_flops()
        _ = empty.likelihood(latent).mean
        return encode, counter.get_total_flops() - encode


def _vae_flops(vae: VAE) -> tuple[int, int]:
    config = vae.config
    encode = _network_flops(vae.encoder.network, config.image_shape)
    return encode, _network_flops(vae.decoder.network, config.latent_shape)


def _network_flops(network: nn.Sequential, shape: tuple[int, ...]) -> int:
    """Count the operations of one row [*shape]: a product and a sum for each weight wherever it is applied."""
    total = 0
    for layer in network:
        if isinstance(layer, nn.Linear):
            total += 2 * layer.weight.numel()
        elif isinstance(layer, nn.Unflatten):
            shape = tuple(map(int, layer.unflattened_size))
        elif isinstance(layer, Residual):
            total += _network_flops(nn.Sequential(layer.first, layer.second), shape)
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            size = _output_size(layer, shape[1:])
            where = shape[1:] if isinstance(layer, nn.ConvTranspose2d) else size
            total += 2 * layer.weight.numel() * prod(where)
            shape = (layer.out_channels, *size)
    return total


def _output_size(layer: nn.Conv2d | nn.ConvTranspose2d, grid: tuple[int, ...]) -> tuple[int, ...]:
    """Return height and width of the output of a convolution for an input of `grid`."""
    dimensions = zip(grid, layer.kernel_size, layer.stride, map(int, layer.padding), layer.output_padding, strict=True)
    if isinstance(layer, nn.ConvTranspose2d):
        return tuple((size - 1) * stride - 2 * pad + kernel + more for size, kernel, stride, pad, more in dimensions)
    return tuple((size + 2 * pad - kernel) // stride + 1 for size, kernel, stride, pad, _ in dimensions)
