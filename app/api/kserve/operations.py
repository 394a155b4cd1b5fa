"""What the models of the protocol compute: from an input tensor and parameters to output tensors."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from app.api import capabilities
from app.api.endpoint import EndpointRequest
from app.api.kserve.parameters import (
    DecodeParameters,
    EncodeParameters,
    ImagesForm,
    ReconstructParameters,
    SampleParameters,
    ScoreParameters,
)
from app.api.kserve.tensors import BYTES, INTEGERS, Tensor, read_byte_strings, read_numbers
from app.api.kserve.wire import Output
from app.api.latents import ExpectedLatents, latents_of_array
from app.api.query import ImagesQuery
from app.api.request_bodies import PER_IMAGE_COST, ImageReader
from app.api.responses import until_deadline, write_images
from app.api.scoring import require_scores, score_images
from app.codecs.media_types import JPEG, PNG, WEBP
from app.codecs.npy import Header
from app.context import Operation, RequestContext
from app.errors import UnprocessableContent
from app.inference.image_sizes import size_of_request
from app.inference.loaded_model import LoadedModel
from app.inference.noise import Noise
from app.validation import require_items
from model.interface import LatentScaling

_MEDIA_TYPES = {"png": PNG, "jpeg": JPEG, "webp": WEBP}

FLOAT = np.dtype(np.float32)


class Call(NamedTuple):
    """A request with its input tensor, which only `sample` does without, and the served model that computes it."""

    request: EndpointRequest
    model: LoadedModel
    tensor: Tensor | None

    def input(self) -> Tensor:
        """Return the input tensor; raises `UnprocessableContent` if there is none."""
        if self.tensor is None:
            raise UnprocessableContent("inputs: expected one tensor, got none")
        return self.tensor


class Result(NamedTuple):
    """What a model has computed, and the seed of its draws."""

    outputs: Sequence[Output]
    seed: int | None = None


async def encode(call: Call, parameters: EncodeParameters) -> Result:
    """Mean and logvar of q(z|x), and with `samples` draws z [N, L, *latent]."""
    model, context, draws = call.model, call.request.context, parameters.samples
    if draws is not None:
        capabilities.require(model.spec, capabilities.SAMPLES, "parameters.samples")
    pixels = await _images(call, parameters, Operation.ENCODE, draws or 0)
    if draws is None:
        return await _posterior(call, parameters, await model.encode(pixels, context))
    posterior = await model.posterior(pixels, context, deterministic=True)
    noise = Noise(parameters.seed)
    z = posterior.reparameterize(noise.normal(len(pixels), draws, *model.latents_of(pixels)).transpose(0, 1))
    rows = [tensor.numpy() for tensor in (posterior.mean, posterior.logvar, z.transpose(0, 1))]
    return await _posterior(call, parameters, rows, noise.seed)


async def _posterior(
    call: Call, parameters: EncodeParameters, rows: Sequence[np.ndarray], seed: int | None = None
) -> Result:
    if parameters.scaled:
        rows = await call.request.run_codec(sum(row.nbytes for row in rows), _scaled, rows, call.model.spec.scaling)
    names = ("mean", "logvar", "z")[: len(rows)]
    return Result([Output(name, parameters.datatype, row) for name, row in zip(names, rows, strict=True)], seed)


async def decode(call: Call, parameters: DecodeParameters) -> Result:
    """The mean image of p(x|z) for each latent."""
    request, model = call.request, call.model
    latents = await _latents(call, scaled=parameters.scaled)
    request.reserve(model, Operation.DECODE, len(latents), part="latents", size=model.size_of(latents))
    return Result([await _output_images(request, await model.decode(latents, request.context), parameters)])


async def reconstruct(call: Call, parameters: ReconstructParameters) -> Result:
    """Each image encoded and decoded: at the posterior mean, or with `seed` at a draw from the posterior."""
    model, context, seed = call.model, call.request.context, parameters.seed
    if seed is not None:
        capabilities.require(model.spec, capabilities.SAMPLES, "parameters.seed")
    pixels = await _images(call, parameters, Operation.RECONSTRUCT)
    eps = None if seed is None else Noise(seed).normal(len(pixels), *model.latents_of(pixels))
    reconstructed = await model.reconstruct(pixels, eps, context)
    return Result([await _output_images(call.request, reconstructed, parameters)], seed)


async def sample(call: Call, parameters: SampleParameters) -> Result:
    """New images: the means of p(x|z) for draws z from the prior N(0, I)."""
    request, model, count = call.request, call.model, _count(call.tensor, parameters.n)
    if not parameters.force:
        capabilities.require(model.spec, capabilities.SAMPLE, "sample")
    rule, limits = model.spec.sizes, request.services.limits
    requested = (parameters.height, parameters.width)
    size = size_of_request(rule, requested, rule.default_size, limits.max_image_pixels)
    request.reserve(model, Operation.DECODE, count, part="n", size=size)
    request.services.engine.check_capacity(count)
    noise = Noise(parameters.seed)
    latents = noise.normal(count, *rule.latents_of(*size)) * parameters.temperature
    pixels = await model.decode(latents, request.context, deterministic=True)
    return Result([await _output_images(request, pixels, parameters)], noise.seed)


async def score(call: Call, parameters: ScoreParameters) -> Result:
    """The ELBO and its terms of each image, or the error of its reconstruction by a model without an ELBO."""
    require_scores(call.model, parameters, "parameters.")
    pixels = await _images(call, parameters, Operation.SCORE, parameters.samples or 0)
    columns, noise = await score_images(call.request, call.model, parameters, pixels)
    return Result(_vectors(columns), noise.seed if noise else None)


async def _images(call: Call, parameters: ImagesQuery, operation: Operation, draws: int = 0) -> np.ndarray:
    """Read the images of the input: an array of uint8 or floats, or byte strings that are image files."""
    tensor, request = call.input(), call.request
    reader = ImageReader(request, call.model, parameters, operation, draws)
    if tensor.dtype is not None:
        header = Header(tensor.dtype, tensor.shape, is_fortran=False, offset=0)
        size = tensor.size * tensor.dtype.itemsize
        return await reader.read_array(header, size, lambda header: read_numbers(tensor).reshape(header.shape))
    require_items(tensor.size, request.services.limits.max_items)
    cost = len(tensor.elements) + PER_IMAGE_COST * tensor.size
    return await reader.read_files(await request.run_codec(cost, read_byte_strings, tensor))


async def _latents(call: Call, *, scaled: bool) -> np.ndarray:
    """Read the latents of the input, float32 in the units of the autoencoder."""
    tensor, limits = call.input(), call.request.services.limits
    if tensor.dtype is None or tensor.datatype in INTEGERS:
        raise UnprocessableContent(f"{tensor.where}.datatype: expected FP32, FP16, BF16 or FP64, got {tensor.datatype}")
    expected = ExpectedLatents(call.model.spec, limits.max_items, limits.max_image_pixels, scaled)
    _require_latents(tensor, expected)

    def read() -> np.ndarray:
        array = read_numbers(tensor)
        if array.dtype != np.float64:
            array = np.require(array, np.float32, ("C", "W"))  # torch warns of arrays of read-only bytes
        return latents_of_array(array, expected)

    return await call.request.run_codec(tensor.size * FLOAT.itemsize, read)


def _require_latents(tensor: Tensor, expected: ExpectedLatents) -> None:
    """Refuse a tensor of another shape than latents [N, *latent]; raises `ContentTooLarge` for too many."""
    dimensions = tensor.shape[1:]
    shape = expected.shape_for(dimensions, f"{tensor.where}.shape[1:]")
    if dimensions != shape or not tensor.size:
        latents = ", ".join(["N", *map(str, shape)])
        raise UnprocessableContent(f"{tensor.where}.shape: expected [{latents}], got {[*tensor.shape]}")
    require_items(tensor.shape[0], expected.max_items)


def _count(tensor: Tensor | None, count: int) -> int:
    """Return how many images to sample: the input, or the parameter."""
    if tensor is None:
        return count
    if tensor.datatype != "INT64" or tensor.size != 1:
        got = f"{tensor.datatype} {[*tensor.shape]}"
        raise UnprocessableContent(f"{tensor.where}: expected one number, INT64 [1], got {got}")
    n = int(read_numbers(tensor).item())
    if n < 1:
        raise UnprocessableContent(f"{tensor.where}: expected a number from 1, got {n}")
    return n


async def _output_images(request: EndpointRequest, pixels: np.ndarray, form: ImagesForm) -> Output:
    """Return pixels [N, C, H, W] as an array [N, H, W, C], or as image files."""
    if form.format == "array":
        return Output("images", "UINT8", pixels.transpose(0, 2, 3, 1))
    return Output("images", BYTES, await request.run_codec(pixels.size, _files, request.context, pixels, form))


def _files(context: RequestContext, pixels: np.ndarray, form: ImagesForm) -> list[bytes]:
    media_type = _MEDIA_TYPES[form.format]
    images = (image[None] for image in until_deadline(context, pixels))
    return [write_images(context, media_type, image, None, form.quality) for image in images]


def _scaled(rows: Sequence[np.ndarray], scaling: LatentScaling) -> list[np.ndarray]:
    """Convert mean, logvar and draws to the units of the diffusion model; draws are [N, L, *latent]."""
    scaled = [scaling.scaled_logvar(row) if index == 1 else scaling.scaled(row) for index, row in enumerate(rows[:2])]
    return [*scaled, *(np.stack([*map(scaling.scaled, z)]) for z in rows[2:])]


def _vectors(columns: Mapping[str, np.ndarray]) -> list[Output]:
    types = {np.dtype(bool): "UINT8"}
    return [Output(name, types.get(column.dtype, "FP32"), column) for name, column in columns.items()]
