"""Weight normalisation, by which a layer's weight is a direction and a length: w = g v / |v|, for each output.

Salimans and Kingma, "Weight Normalization" (2016), equation 2; the first values from a batch of data as in section 3.
It is a matter of training alone: what is averaged, kept and served are the plain weights w.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from model.vae import VAE

Layer = nn.Linear | nn.Conv2d | nn.ConvTranspose2d


def normalise(vae: VAE, x: Tensor, generator: torch.Generator) -> None:
    """Normalise every layer in place; those within the networks start with outputs of mean 0 and variance 1 on x.

    The last layer of each network keeps its output. A layer that starts at zero, so that its block is the identity,
    starts with the length 0 in a random direction.
    """
    inner = [layer for network in (vae.encoder, vae.decoder) for layer in _layers(network)[:-1]]
    handles = [layer.register_forward_hook(_standardise) for layer in inner]
    with torch.no_grad():
        q = vae.posterior(x)
        noise = torch.randn((1, *q.mean.shape), generator=generator, device=q.mean.device)
        vae.likelihood(q.at(noise))
    for handle in handles:
        handle.remove()
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
    deviation, mean = torch.std_mean(output, dim=others)
    deviation = deviation.clamp_min(1e-6)
    shape = [1] * output.dim()
    shape[1] = -1
    layer.weight /= deviation.reshape([-1 if dim == _outputs(layer) else 1 for dim in range(layer.weight.dim())])
    layer.bias.sub_(mean).div_(deviation)
    return (output - mean.reshape(shape)) / deviation.reshape(shape)


def _reparametrise(layer: Layer, generator: torch.Generator) -> None:
    still = not layer.weight.any()
    with torch.no_grad():
        if still:
            layer.weight.normal_(generator=generator)
        weight_norm(layer, dim=_outputs(layer))
        if still:
            layer.parametrizations.weight.original0.zero_()  # type: ignore[union-attr,operator]  # made by weight_norm


def _outputs(layer: Layer) -> int:
    return 1 if isinstance(layer, nn.ConvTranspose2d) else 0
