"""Weight normalisation, by which a layer's weight is a direction and a length: w = g v / |v|, for each output.

Salimans and Kingma, "Weight Normalization" (2016), equation 2; the first values of an untrained model as in section 3.
It is a matter of training alone: what is averaged, kept and served are the plain weights w.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from model.vae import VAE

Layer = nn.Linear | nn.Conv2d | nn.ConvTranspose2d

CONSTANT = 1e-6
"""The standard deviation below which an output is the same for all images, and so left as it is."""


def standardise(vae: VAE, x: Tensor, generator: torch.Generator) -> None:
    """Let every layer within the untrained networks start with outputs of mean 0 and variance 1 on x.

    The last layer of each network keeps its output, as does one that starts at zero, so that its block is the identity,
    and an output that is the same for all of x.
    """
    inner = [layer for network in (vae.encoder, vae.decoder) for layer in _layers(network)[:-1]]
    handles = [layer.register_forward_hook(_standardise) for layer in inner]
    with torch.no_grad():
        q = vae.posterior(x)
        noise = torch.randn((1, *q.mean.shape), generator=generator, device=q.mean.device)
        vae.likelihood(q.reparameterize(noise))
    for handle in handles:
        handle.remove()


def normalise(vae: VAE, generator: torch.Generator) -> None:
    """Make directions and lengths of every layer's weights, in place; the networks compute what they did.

    An output whose weights are zero gets the length 0 in a random direction.
    """
    for layer in [*_layers(vae.encoder), *_layers(vae.decoder)]:
        _reparametrise(layer, generator)


def plain_weights(vae: VAE) -> dict[str, Tensor]:
    """The weights by the names that an unnormalised VAE has for them."""
    folded = {
        f"{name}.{kind}": getattr(layer, kind)
        for name, layer in vae.named_modules()
        if isinstance(layer, Layer)
        for kind in ("weight", "bias")
    }
    return {name: weight.detach() for name, weight in folded.items()}


def _layers(network: nn.Module) -> list[Layer]:
    return [layer for layer in network.modules() if isinstance(layer, Layer)]


def _standardise(layer: Any, _: Any, output: Tensor) -> Tensor | None:
    if not layer.weight.any():
        return None
    others = [dim for dim in range(output.dim()) if dim != 1]
    deviation, mean = torch.std_mean(output, dim=others, correction=0)
    constant = deviation < CONSTANT
    deviation, mean = deviation.masked_fill(constant, 1), mean.masked_fill(constant, 0)
    shape = [1] * output.dim()
    shape[1] = -1
    layer.weight /= deviation.reshape([-1 if dim == _outputs(layer) else 1 for dim in range(layer.weight.dim())])
    layer.bias.sub_(mean).div_(deviation)
    return (output - mean.reshape(shape)) / deviation.reshape(shape)


def _reparametrise(layer: Any, generator: torch.Generator) -> None:
    weight, outputs = layer.weight, _outputs(layer)
    others = [dim for dim in range(weight.dim()) if dim != outputs]
    still = torch.linalg.vector_norm(weight, dim=others, keepdim=True) == 0
    with torch.no_grad():
        if still.any():
            weight.copy_(torch.where(still, torch.empty_like(weight).normal_(generator=generator), weight))
        weight_norm(layer, dim=outputs)
        layer.parametrizations.weight.original0.masked_fill_(still, 0)


def _outputs(layer: Layer) -> int:
    return 1 if isinstance(layer, nn.ConvTranspose2d) else 0
