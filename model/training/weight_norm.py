"""Weight normalisation: the weight of each output is a length times a direction, w = g v / |v|.

Salimans and Kingma, "Weight Normalization" (2016), equation 2; data-dependent initialisation as in section 3. Only
training uses it: the effective weights w are averaged, saved and served.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from model.vae import VAE

Layer = nn.Linear | nn.Conv2d | nn.ConvTranspose2d

MIN_STD = 1e-6
"""Standard deviation below which an output counts as constant and keeps its scale."""


def data_dependent_init(vae: VAE, x: Tensor, generator: torch.Generator) -> None:
    """Scale and shift the inner layers of untrained networks so that their outputs on x have mean 0 and variance 1.

    The last layer of each network, layers with zero weights (which make a residual block the identity) and outputs that
    are constant on x are not changed.
    """
    inner = [layer for network in (vae.encoder, vae.decoder) for layer in _layers(network)[:-1]]
    handles = [layer.register_forward_hook(_standardise_output) for layer in inner]
    with torch.no_grad():
        q = vae.posterior(x)
        noise = torch.randn((1, *q.mean.shape), generator=generator, device=q.mean.device)
        vae.likelihood(q.reparameterize(noise))
    for handle in handles:
        handle.remove()


def apply_weight_norm(vae: VAE, generator: torch.Generator) -> None:
    """Replace the weights of every layer by directions and lengths, in place; the networks compute the same function.

    An output with zero weights gets the length 0 and a random direction.
    """
    for layer in [*_layers(vae.encoder), *_layers(vae.decoder)]:
        _normalise_layer(layer, generator)


def effective_weights(vae: VAE) -> dict[str, Tensor]:
    """Return the effective weights w under the names that they have without weight normalisation."""
    weights = {
        f"{name}.{kind}": getattr(layer, kind)
        for name, layer in vae.named_modules()
        if isinstance(layer, Layer)
        for kind in ("weight", "bias")
    }
    return {name: weight.detach() for name, weight in weights.items()}


def _layers(network: nn.Module) -> list[Layer]:
    return [layer for layer in network.modules() if isinstance(layer, Layer)]


def _standardise_output(layer: Any, _: Any, output: Tensor) -> Tensor | None:
    if not layer.weight.any():
        return None
    others = [dim for dim in range(output.dim()) if dim != 1]
    deviation, mean = torch.std_mean(output, dim=others, correction=0)
    constant = deviation < MIN_STD
    deviation, mean = deviation.masked_fill(constant, 1), mean.masked_fill(constant, 0)
    shape = [1] * output.dim()
    shape[1] = -1
    layer.weight /= deviation.reshape([-1 if dim == _output_dim(layer) else 1 for dim in range(layer.weight.dim())])
    layer.bias.sub_(mean).div_(deviation)
    return (output - mean.reshape(shape)) / deviation.reshape(shape)


def _normalise_layer(layer: Any, generator: torch.Generator) -> None:
    weight, outputs = layer.weight, _output_dim(layer)
    others = [dim for dim in range(weight.dim()) if dim != outputs]
    zero = torch.linalg.vector_norm(weight, dim=others, keepdim=True) == 0
    with torch.no_grad():
        if zero.any():
            weight.copy_(torch.where(zero, torch.empty_like(weight).normal_(generator=generator), weight))
        weight_norm(layer, dim=outputs)
        layer.parametrizations.weight.original0.masked_fill_(zero, 0)


def _output_dim(layer: Layer) -> int:
    return 1 if isinstance(layer, nn.ConvTranspose2d) else 0
