"""Autoencoders of diffusers as image models; diffusers' own classes compute.

Pixels are in [-1, 1] inside. A diffusion model works on (z - shift) * scale, with the factors of the config. Needs the
extra `diffusers`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.files import CONFIG, CheckpointError
from model.formats.diffusers_config import MAX_SIDE, check_config, default_side, latent_scaling
from model.formats.diffusers_files import CLASS, DiffusersFiles, find_files
from model.gaussian import DiagonalGaussian
from model.interface import (
    DecodedImage,
    DeterministicCode,
    LatentScaling,
    ModelSpec,
    MultipleOfFactor,
    Origin,
    StoredModel,
)
from model.interruption import check_interruption

FORMAT = "diffusers"

MAX_WEIGHTS = 2**31
"""Largest number of weights, 8 GiB in float32."""


def _always(config: Any) -> bool:  # noqa: ARG001  # the signature of `can_tile`
    return True


@dataclass(frozen=True, slots=True)
class AutoencoderClass:
    """What the service knows of an autoencoder class of diffusers.

    `encoded` returns mean and logvar of an output of `encode`, or the code alone. `blocks` is the field of the config
    with an entry for each resolution. `tiles` returns the attributes of a model that computes in tiles of a side, by
    its factor. `can_tile` returns whether a model of this config can do that.
    """

    encoded: Callable[[Any], tuple[Tensor, ...]]
    blocks: str
    tiles: Callable[[int, int], dict[str, int]]
    can_tile: Callable[[Any], bool] = _always

    def factor(self, config: Mapping[str, Any]) -> int:
        """Return the number of pixels a side for one latent: each resolution but the first halves the image."""
        return int(2 ** (len(config[self.blocks]) - 1))


def _square_tiles(side: int, factor: int) -> dict[str, int]:
    return {"tile_sample_min_size": side, "tile_latent_min_size": side // factor}


def _strided_tiles(side: int, factor: int) -> dict[str, int]:
    stride = side - 2 * factor
    tiles = {"tile_sample_min": side, "tile_sample_stride": stride, "tile_latent_min": side // factor}
    return {f"{name}_{direction}": value for name, value in tiles.items() for direction in ("height", "width")}


def _tiny_can_tile(config: Any) -> bool:
    """Whether the class computes tiles of a model: it allocates 4 channels, and assumes the factor 8."""
    return (config.latent_channels, len(config.encoder_block_out_channels)) == (4, 4)


def _moments(output: Any) -> tuple[Tensor, ...]:
    return output.latent_dist.mean, output.latent_dist.logvar


CLASSES: Mapping[str, AutoencoderClass] = {
    "AutoencoderKL": AutoencoderClass(_moments, "block_out_channels", _square_tiles),
    "AutoencoderKLFlux2": AutoencoderClass(_moments, "block_out_channels", _square_tiles),
    "AutoencoderTiny": AutoencoderClass(
        lambda output: (output.latents,), "encoder_block_out_channels", _square_tiles, _tiny_can_tile
    ),
    "AutoencoderDC": AutoencoderClass(lambda output: (output.latent,), "encoder_block_out_channels", _strided_tiles),
}
"""The classes that are served, by their name in diffusers."""


class DiffusersModel(nn.Module):
    """An autoencoder of diffusers with its spec."""

    def __init__(self, vae: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.vae: Any = vae
        self.spec = spec
        self._class = CLASSES[type(vae).__name__]

    def posterior(self, x: Tensor) -> DiagonalGaussian | DeterministicCode:
        mean, *logvar = (tensor.float() for tensor in self._class.encoded(self.vae.encode(2 * x - 1)))
        return DiagonalGaussian(mean, *logvar) if logvar else DeterministicCode(mean)

    def likelihood(self, z: Tensor) -> DecodedImage:
        image: Tensor = self.vae.decode(z).sample
        return DecodedImage((image.float() / 2 + 0.5).clamp(0, 1))

    def tiled(self, side: int) -> "DiffusersModel":
        """Return the model that computes in tiles of `side` pixels; the copy has the same layers and weights.

        Raises `ValueError` for a side of which a quarter, the overlap of two tiles, is no multiple of the factor.
        """
        vae, factor = copy(self.vae), self._class.factor(self.vae.config)
        if side % (4 * factor):
            raise ValueError(f"tile: expected a multiple of {4 * factor} pixels, got {side}")
        for name, value in self._class.tiles(side, factor).items():
            setattr(vae, name, value)  # not every class has arguments for them
        vae.enable_tiling()
        return DiffusersModel(vae, self.spec)


class EncoderModule(nn.Module):
    """The encoder of a model alone: images in [-1, 1] to (mean, logvar), or to a code without a variance."""

    def __init__(self, model: DiffusersModel) -> None:
        super().__init__()
        self._vae, self._encoded = model.vae, CLASSES[type(model.vae).__name__].encoded

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = self._encoded(self._vae.encode(x))
        return outputs if len(outputs) > 1 else outputs[0]


class DecoderModule(nn.Module):
    """The decoder of a model alone: latents to images in [-1, 1]."""

    def __init__(self, model: DiffusersModel) -> None:
        super().__init__()
        self._vae = model.vae

    def forward(self, z: Tensor) -> Tensor:
        image: Tensor = self._vae.decode(z).sample
        return image


def read(folder: Path, origin: Origin) -> StoredModel:
    """Read an autoencoder in float32. Raises `CheckpointError` for a folder without a usable one."""
    files = find_files(folder)
    name = str(files.config[CLASS])
    if name not in CLASSES:
        raise CheckpointError(f"{files.folder / CONFIG}: {CLASS}: expected {', '.join(CLASSES)}, got {name!r}")
    _check(name, files)
    vae = _load(name, files)
    try:
        spec = _spec(origin, files, vae)
    except ValueError as error:  # statistics among the weights
        raise CheckpointError(f"{files.folder}: {error}") from None
    return StoredModel(DiffusersModel(vae, spec))


def _class(name: str) -> Any:
    try:
        import diffusers  # noqa: PLC0415  # an extra, and slow to import
    except ModuleNotFoundError as error:
        if error.name != "diffusers":
            raise
        raise CheckpointError("diffusers is not installed; pip install 'vae-service[diffusers]'") from None
    diffusers.utils.logging.set_verbosity_error()
    if not hasattr(diffusers, name):
        raise CheckpointError(f"diffusers {diffusers.__version__} has no {name}; install a later version")
    return getattr(diffusers, name)


def _check(name: str, files: DiffusersFiles) -> None:
    """Check the config, and the shapes that the autoencoder computes, before there is memory for its weights."""
    path, vae_class = files.folder / CONFIG, _class(name)
    if "quantization_config" in files.config:
        raise CheckpointError(f"{path}: quantization_config: quantized weights are not served")
    try:
        check_config(files.config)
        with torch.device("meta"):
            vae = vae_class.from_config(files.config).eval()
        _check_shapes(name, vae)
    except Exception as error:  # noqa: BLE001  # diffusers raises anything for an invalid config
        raise CheckpointError(f"{path}: not a config of {name}: {' '.join(str(error).split())}") from None
    if (count := sum(weight.numel() for weight in vae.parameters())) > MAX_WEIGHTS:
        raise CheckpointError(f"{path}: expected at most {MAX_WEIGHTS:,} weights, got {count:,}")


@torch.inference_mode()
def _check_shapes(name: str, vae: Any) -> None:
    """Raise `ValueError` for a model that is no autoencoder of images in one of the ways that are served."""
    config, factor = vae.config, CLASSES[name].factor(vae.config)
    channels, side = config.in_channels, 4 * factor
    if hasattr(vae, "bn"):
        _require_patches(vae)
    if channels not in (1, 3):
        raise ValueError(f"in_channels: expected 1 or 3, got {channels}")
    code, *_ = CLASSES[name].encoded(vae.encode(torch.empty(1, channels, side, side, device="meta")))
    image = vae.decode(code).sample
    for what, tensor, expected in (
        ("latent", code, (1, config.latent_channels, 4, 4)),
        ("decoded image", image, (1, channels, side, side)),
    ):
        if tensor.shape != expected:
            raise ValueError(
                f"expected a {what} of {expected} for an image of {side}x{side}, got {tuple(tensor.shape)}"
            )


def _load(name: str, files: DiffusersFiles) -> nn.Module:
    """Load the weights by diffusers, which renames those of its earlier versions."""
    try:
        vae, found = _class(name).from_pretrained(
            files.folder,
            local_files_only=True,
            use_safetensors=True,
            variant=files.variant,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except Exception as error:  # noqa: BLE001  # diffusers raises anything for damaged weights
        raise CheckpointError(f"{files.folder}: {' '.join(str(error).split())}") from None
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := found[problem]:
            what = problem.replace("_", " ")
            raise CheckpointError(
                f"{files.folder}: {what} for the architecture in {CONFIG}: {keys[0]}, {len(keys)} in all"
            )
    for key, weight in vae.state_dict().items():
        if not weight.isfinite().all():
            raise CheckpointError(f"{files.folder}: {key}: expected finite numbers")
    module: nn.Module = vae.eval().requires_grad_(False)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):  # a tile has many
            layer.register_forward_pre_hook(_check_interruption)
    return module


def _check_interruption(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:  # noqa: ARG001  # the signature of hooks
    check_interruption()


def _spec(origin: Origin, files: DiffusersFiles, vae: Any) -> ModelSpec:
    config, known = vae.config, CLASSES[files.config[CLASS]]
    factor = known.factor(config)
    return ModelSpec(
        name=origin.name,
        digest=_digest(files),
        format=FORMAT,
        source=origin.source,
        channels=config.in_channels,
        sizes=MultipleOfFactor(
            factor, 2 * factor, MAX_SIDE, config.latent_channels, default=default_side(config, factor)
        ),
        likelihood=None,
        parameters=sum(weight.numel() for weight in vae.parameters()),
        has_variance=known.encoded is _moments,
        has_prior=False,
        scaling=_patch_scaling(vae) if hasattr(vae, "bn") else latent_scaling(config),
        overflows_float16=files.config.get("force_upcast") is True,
        can_tile=known.can_tile(config),
        architecture=files.config,
    )


def _require_patches(vae: Any) -> None:
    """Raise `ValueError` for statistics that do not have a number for each place in a patch of latents."""
    patch, count = vae.config.patch_size, vae.config.latent_channels
    if len(patch) != 2 or not all(type(side) is int and side > 0 for side in patch):
        raise ValueError(f"patch_size: expected two numbers of latents, got {patch!r}")
    if vae.bn.num_features != count * prod(patch):
        raise ValueError(f"patch_size: expected statistics of {count} x {patch} numbers, got {vae.bn.num_features}")


def _patch_scaling(vae: Any) -> LatentScaling:
    """Return the units of Flux 2: patches of latents are normalised by the statistics of a batch normalisation."""
    deviation = torch.sqrt(vae.bn.running_var + vae.config.batch_norm_eps)
    height, width = vae.config.patch_size
    return LatentScaling(tuple((1 / deviation).tolist()), tuple(vae.bn.running_mean.tolist()), (height, width))


def _digest(files: DiffusersFiles) -> str:
    """Return the SHA-256 over the config and the digests of the files of the weights.

    The version of diffusers and the path from which the model came, which it notes in the config, are left out.
    """
    config = {name: value for name, value in files.config.items() if name == CLASS or not name.startswith("_")}
    lines = [json.dumps(config, sort_keys=True, separators=(",", ":"))]
    for path in files.weights:
        with path.open("rb") as file:
            lines.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
