"""The number of floating-point operations of a model, counted without computing it."""

import copy
from math import prod
from typing import cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model.formats.native import NativeModel
from model.formats.onnx.pair import OnnxPair
from model.interface import ImageModel, ModelSpec, MultipleOfFactor
from model.networks.blocks import Residual
from model.vae import VAE

COMPUTE_BOUND_FLOPS = 4e8
"""Operations of one image, encoded and decoded, above which further copies of the weights pay off."""

GROWTH_SIDE = 1024
"""Pixels of the side of an image that is compared with one four times as long; no values are computed."""


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
    if isinstance(model, OnnxPair):
        return model.flops()
    return _module_flops(model, model.spec) if isinstance(model, nn.Module) else None


def growth_of(model: ImageModel) -> tuple[float, float, float]:
    """Return the growth g of the operations for an image of n pixels, c * n * (1 + g * n), by its attention.

    There is one to encode, one to decode, and one for both; 0 for a graph, whose operations take seconds to count.
    """
    rule = model.spec.sizes
    if not isinstance(model, nn.Module) or not isinstance(rule, MultipleOfFactor):
        return 0.0, 0.0, 0.0
    small = rule.fitted(GROWTH_SIDE, GROWTH_SIDE)
    large = rule.fitted(4 * small[0], 4 * small[1])
    (encode, decode), (more_encode, more_decode) = (
        _module_flops(model, model.spec.at(*size)) for size in (small, large)
    )
    pairs = (encode, more_encode), (decode, more_decode), (encode + decode, more_encode + more_decode)
    to_encode, to_decode, both = (_growth(pair, (prod(small), prod(large))) for pair in pairs)
    return to_encode, to_decode, both


def _growth(flops: tuple[int, int], pixels: tuple[int, int]) -> float:
    """Return g of c * n * (1 + g * n) from the operations of images of two numbers n of pixels."""
    small, large = (count / n for count, n in zip(flops, pixels, strict=True))
    if large <= small or pixels[1] <= pixels[0]:
        return 0.0
    slope = (large - small) / (pixels[1] - pixels[0])
    return slope / max(1.0, small - slope * pixels[0])


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
