"""Inspection of a model, for `vae inspect`: what it is and what it can do, and a reconstruction of an image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf, log10
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import numpy as np

from app.api.capabilities import ELBO, SAMPLE, SAMPLES, TILES, TYPICALITY, reasons
from app.batching.executor import DeviceLost, OutOfMemory
from app.batching.rows import RowBatch
from app.codecs.images import EncodedImage, decode_images, open_image
from app.codecs.png import write_png
from app.codecs.png_reader import Png
from app.context import Operation
from app.errors import ServiceError
from app.inference.device import TorchDevice, configure_torch
from app.runtimes.base import CompiledModel
from app.runtimes.flops import flops_of
from app.runtimes.selection import compile_model
from app.settings import Settings
from model.errors import UserError
from model.files import CheckpointError, read_file, write_atomically
from model.formats import read_model
from model.interface import FixedSize, ModelSpec, StoredModel
from model.shipped import find_model
from model.typicality import Typicality

Result = TypeVar("Result")

ERROR_GAIN = 4
"""Factor by which the picture of the error is brighter than the error."""

TRANSPOSED = 5
"""The first orientation of EXIF that exchanges height and width."""

ENDPOINTS = {
    SAMPLES: "/encode?samples=, /reconstruct?seed=",
    SAMPLE: "/sample",
    ELBO: "ELBO of /score",
    TYPICALITY: "typicality of /score",
    TILES: "images larger than memory",
}


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """An image as the model takes it, uint8 [C, H, W], its reconstruction, and the seconds for both networks."""

    original: np.ndarray
    image: np.ndarray
    encode_seconds: float
    decode_seconds: float

    @property
    def psnr(self) -> float:
        """The peak signal-to-noise ratio in decibels, infinite without an error."""
        error = float(np.mean((self.original.astype(np.float64) - self.image) ** 2))
        return 10 * log10(255**2 / error) if error else inf

    def picture(self) -> np.ndarray:
        """The original, the reconstruction and the error side by side, uint8 [C, H, 3 * W]."""
        error = ERROR_GAIN * np.abs(self.original.astype(np.int64) - self.image)
        return np.concatenate([self.original, self.image, np.minimum(error, 255).astype(np.uint8)], axis=2)


def image_and_model(first: str | None, image: Path | None, model: str) -> tuple[Path | None, str]:
    """Return the image and the model of the command line.

    Its arguments are a model and an image; the first one alone is the model if it is a folder or the name of a
    shipped model, otherwise the image.
    Raises `UserError` for another model than the one of `--model`.
    """
    if first is None or (image is None and not find_model(Path(first)).is_dir()):
        return Path(first) if first else None, model
    if model and Path(model) != Path(first):
        got = "a second model" if image else "a folder"
        raise UserError(f"{first}: expected an image file beside --model {model}, got {got}")
    return image, first


def inspect_model(settings: Settings, image: Path | None, out: Path | None) -> dict[str, str]:
    """Load the model of the settings, compute an image, and return its properties by their name.

    Without an image a grey one of the default size is computed. The picture of an image is written to `out`, by default
    beside it. Raises `UserError` for a model that could not be served.
    """
    stored = read_model(settings.model)
    model = stored.model
    flops = flops_of(model)
    pixels = _read_image(image, model.spec, settings) if image else _grey(model.spec)
    configure_torch(settings)
    device = TorchDevice(settings)
    compiled = _computed(device, partial(compile_model, model, settings, device.target))
    found = _computed(device, partial(_reconstruct, compiled, pixels))
    properties = _describe(stored, flops) | {
        "device": f"{device}, {settings.precision}, {compiled.runtime}",
        "time": f"{_milliseconds(found.encode_seconds)} to encode, {_milliseconds(found.decode_seconds)} to decode an "
        f"image of {_size(found.image.shape)}",
    }
    if image is None:
        return properties
    path = out or Path(f"{image.stem}.inspection.png")
    write_atomically(path, write_png(found.picture()))
    picture = f"original, reconstruction and error (x{ERROR_GAIN}) in {path}"
    return properties | {"PSNR": f"{found.psnr:.2f} dB", "picture": picture}


def table(properties: Mapping[str, str]) -> str:
    """Write properties as two aligned columns."""
    width = max(map(len, properties))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in properties.items())


def _describe(stored: StoredModel, flops: tuple[int, int] | None) -> dict[str, str]:
    spec, typicality = stored.model.spec, stored.typicality
    size = _size(spec.image_shape)
    operations = flops and f"{_operations(flops[0])} to encode, {_operations(flops[1])} to decode an image of {size}"
    return {
        "model": spec.identity,
        "format": spec.format,
        "source": spec.source,
        "images": _images(spec),
        "latents": _latents(spec),
        "parameters": f"{spec.parameters:,}",
        "operations": operations or "unknown",
        "likelihood": spec.likelihood or "none",
        "/encode, /decode, /reconstruct": "yes",
        **_capabilities(spec, typicality),
        "digest": spec.digest,
    }


def _capabilities(spec: ModelSpec, typicality: Typicality | None) -> Mapping[str, str]:
    found = reasons(spec, typicality)
    return {ENDPOINTS[capability]: f"no: {reason}" if reason else "yes" for capability, reason in found.items()}


def _images(spec: ModelSpec) -> str:
    rule, channels = spec.sizes, f"{spec.channels} channel{'s' * (spec.channels != 1)}"
    if isinstance(rule, FixedSize):
        return f"{channels}, {_size(spec.image_shape)}"
    sides = f"sides that are multiples of {rule.factor} from {rule.minimum} to {rule.maximum}"
    return f"{channels}, {sides}; {_size(spec.image_shape)} by default"


def _latents(spec: ModelSpec) -> str:
    shape = " x ".join(map(str, spec.latent_shape))
    factor = "" if isinstance(spec.sizes, FixedSize) else f" for {_size(spec.image_shape)}, factor {spec.sizes.factor}"
    kind = "Gaussian" if spec.has_variance else "deterministic"
    scaling = "" if spec.scaling.is_identity else "; scaled for a diffusion model with ?scaled=true"
    return f"{shape}{factor}; {kind}{scaling}"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def _size(shape: tuple[int, ...]) -> str:
    *_, height, width = shape
    return f"{width} x {height}"


def _operations(count: int) -> str:
    """Write a number of floating-point operations with its unit."""
    return f"{count / 1e9:.4g} GFLOP" if count >= 1e9 else f"{count / 1e6:.4g} MFLOP"


def _grey(spec: ModelSpec) -> np.ndarray:
    return np.full((1, *spec.image_shape), 128, np.uint8)


def _read_image(path: Path, spec: ModelSpec, settings: Settings) -> np.ndarray:
    """Read an image file as the service does, uint8 [1, C, H, W] of a size that the model takes."""
    try:
        opened = open_image(read_file(path), 0, settings.max_image_pixels)
        size = spec.sizes.default_size
        if not isinstance(spec.sizes, FixedSize):
            size = spec.sizes.fitted(*_upright_size(opened))
        return decode_images([opened], (spec.channels, *size), "resize")
    except ServiceError as error:
        raise UserError(f"{path}: {error.detail.removeprefix('images[0]: ')}") from None


def _upright_size(image: Png | EncodedImage) -> tuple[int, int]:
    """Return height and width once the orientation is applied; from 5 on it exchanges both."""
    size = (image.height, image.width)
    return size[::-1] if image.orientation >= TRANSPOSED else size


def _reconstruct(compiled: CompiledModel, pixels: np.ndarray) -> Reconstruction:
    """Compute the posterior mean of an image and its reconstruction, each twice: the first run is slower."""
    for _ in range(2):
        start = perf_counter()
        latents = compiled.run(Operation.ENCODE, RowBatch((pixels,)), deterministic=True)
        encoded = perf_counter()
        images = compiled.run(Operation.DECODE, RowBatch(latents.columns[:1]), deterministic=True)
        decoded = perf_counter()
    for what, rows in (("encode", latents), ("decode", images)):
        if not all(np.isfinite(column).all() for column in rows.columns):
            raise CheckpointError(f"{compiled.model.spec.identity}: {what} gives numbers that are not finite")
    return Reconstruction(pixels[0], images.columns[0][0], encoded - start, decoded - encoded)


def _computed(device: TorchDevice, compute: Callable[[], Result]) -> Result:
    """Return what `compute` does; raise `UserError` where the device cannot."""
    try:
        return device.translating_errors(compute)
    except (OutOfMemory, DeviceLost) as failure:
        raise UserError(f"device: {device} cannot compute the model: {failure}") from None
