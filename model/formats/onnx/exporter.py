"""Export of any two torch modules, an encoder and a decoder, as a pair of ONNX graphs."""

import copy
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim

from model.errors import UserError, reporting_file
from model.files import CONFIG, write_json
from model.formats.onnx.config import MAX_SIDE, ChannelOrder, DecoderOutput, EncoderOutput, PairConfig
from model.formats.onnx.folder import read_pair
from model.formats.onnx.graph import read_graph
from model.formats.onnx.pair import OpenedPair
from model.formats.onnx.signature import decoder_channels
from model.formats.onnx_files import PAIR
from model.interface import FixedSize, ImageModel, ModelSpec, Origin

TOLERANCE = 1e-4
"""Largest difference of two numbers, relative to the largest number of their tensor if that is above 1."""

LARGE_BYTES = 2**30
"""Bytes of weights from which they are in a file beside the graph, which has at most 2 GiB."""

EXAMPLE_ROWS = 3
"""Rows of the batch with which the modules are called and traced."""

EXAMPLE_FACTORS = 8
"""Sides of the images with which modules of many sizes are called, in multiples of their factor."""

COMPARED_ROWS = (1, 2, 5)
"""Batch sizes in which graphs and modules are compared."""


class ExportError(UserError):
    """Modules that cannot be exported as a pair; the message says what was expected and what came."""


class _Modules(NamedTuple):
    encoder: nn.Module
    decoder: nn.Module


def export(
    encoder: nn.Module,
    decoder: nn.Module,
    folder: Path | str,
    *,
    image_shape: Sequence[int],
    latent_shape: Sequence[int],
    pixel_range: Sequence[float] = (0.0, 1.0),
    likelihood: str | None = None,
    scale: float = 0.1,
    decoder_output: str = DecoderOutput.MEAN.value,
    factor: int = 0,
    minimum: int = 0,
    maximum: int = 0,
    channel_order: str = ChannelOrder.RGB.value,
    scaling_factor: float | Sequence[float] = 1.0,
    shift_factor: float | Sequence[float] = 0.0,
    prior: bool | None = None,
) -> ModelSpec:
    """Write two modules as encoder.onnx and decoder.onnx with their config.json, and compare both with the modules.

    The encoder takes float32 [B, C, H, W] in the pixel range and returns a tuple (mean, logvar), one tensor with both
    along its channels, or a code without a variance; which of them, is found by calling it. The decoder takes
    [B, *latent] and returns an image in the pixel range, or with `decoder_output="logits"` the parameters of the
    likelihood before their activation. The options are fields of `PairConfig`. With `factor=8` the graphs take images
    of all sizes that are multiples of 8, by default from 16 to 16,384 pixels a side, and `image_shape` is an example;
    the modules are called with smaller images. By default draws from N(0, I) decode to images unless the encoder is
    deterministic.

    Returns the properties of the pair. Only a pair that agrees with its modules replaces files in the folder. Raises
    `ExportError` for modules that do not fit the shapes or that torch cannot export, and for graphs that compute other
    numbers; `CheckpointError` for a graph that is not served, such as one that draws random numbers; `ConfigError` for
    an invalid option.
    """
    modules = _Modules(_frozen(encoder), _frozen(decoder))
    image, latent = _example(tuple(image_shape), tuple(latent_shape), factor, minimum)
    output = _encoder_output(modules.encoder, image, latent)
    config = PairConfig(
        image_shape=tuple(image_shape),
        latent_shape=tuple(latent_shape),
        encoder_output=output.value,
        factor=factor,
        minimum=minimum or 2 * factor,
        maximum=maximum or (MAX_SIDE // factor * factor if factor else 0),
        pixel_range=tuple(pixel_range),
        channel_order=channel_order,
        decoder_output=decoder_output,
        likelihood=likelihood,
        scale=scale,
        scaling_factor=_numbers(scaling_factor),
        shift_factor=_numbers(shift_factor),
        prior=output != EncoderOutput.CODE if prior is None else prior,
    )
    example = replace(config, image_shape=image, latent_shape=latent)
    _require_images(modules.decoder, example)
    target = Path(folder)
    with reporting_file(target):
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=target) as written:
            _write(Path(written), config, example, modules)
            _compare(Path(written), modules, image[1:])
            _move(Path(written), target)
    return read_pair(target, Origin.of_folder(target)).spec


def _numbers(value: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,)


def _example(
    image: tuple[int, ...], latent: tuple[int, ...], factor: int, minimum: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of image and latent with which the modules are called: smaller ones if they take many sizes."""
    if not factor:
        return image, latent
    sides = tuple(min(side, max(minimum, EXAMPLE_FACTORS * factor)) for side in image[1:])
    return (image[0], *sides), (latent[0], *(side // factor for side in sides))


def _frozen(module: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode, on the CPU and without gradients."""
    return copy.deepcopy(module).to("cpu", torch.float32).eval().requires_grad_(False)


def _encoder_output(encoder: nn.Module, image: tuple[int, ...], latent: tuple[int, ...]) -> EncoderOutput:
    """Return what the encoder returns for random images."""
    moments = (2 * latent[0], *latent[1:])
    shapes = _output_shapes("encoder", encoder, image)
    match shapes:
        case [mean, logvar] if mean == logvar == latent:
            return EncoderOutput.MEAN_LOGVAR
        case [both] if both == moments:
            return EncoderOutput.MOMENTS
        case [code] if code == latent:
            return EncoderOutput.CODE
    expected = f"(mean, logvar) of {latent} each, {moments} with both, or a code of {latent}"
    raise ExportError(f"encoder: expected {expected} for an image of {image}, got {_listed(shapes)}")


def _require_images(decoder: nn.Module, config: PairConfig) -> None:
    """Raise `ExportError` unless the decoder returns one image for a latent."""
    expected = (decoder_channels(config), *config.image_shape[1:])
    shapes = _output_shapes("decoder", decoder, config.latent_shape)
    if shapes != [expected]:
        got = _listed(shapes)
        raise ExportError(f"decoder: expected {expected} for a latent of {config.latent_shape}, got {got}")


def _output_shapes(name: str, module: nn.Module, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Call a module with random rows, and return the shapes of the rows that it returns."""
    try:
        outputs = _called(module, torch.rand(EXAMPLE_ROWS, *shape))
    except Exception as error:  # the module is the user's
        raise ExportError(f"{name}: fails for an input of {(EXAMPLE_ROWS, *shape)}: {_summary(error)}") from error
    if not all(isinstance(output, Tensor) and output.dim() > 0 and len(output) == EXAMPLE_ROWS for output in outputs):
        found = ", ".join(
            str(tuple(output.shape)) if isinstance(output, Tensor) else repr(output) for output in outputs
        )
        raise ExportError(f"{name}: expected tensors of {EXAMPLE_ROWS} rows for {EXAMPLE_ROWS} rows, got {found}")
    return [tuple(output.shape[1:]) for output in outputs]


def _called(module: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        outputs = module(x)
    return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]


def _listed(shapes: Iterable[tuple[int, ...]]) -> str:
    return " and ".join(map(str, shapes)) or "nothing"


def _write(folder: Path, config: PairConfig, example: PairConfig, modules: _Modules) -> None:
    two = config.encoder_output == EncoderOutput.MEAN_LOGVAR
    encoded = ["mean", "logvar"] if two else [str(config.encoder_output)]
    encoder, decoder = (folder / name for name in PAIR)
    _write_graph(encoder, modules.encoder, example.image_shape, config.factor, ["image"], encoded)
    _write_graph(decoder, modules.decoder, example.latent_shape, config.factor, ["latent"], ["image"])
    digests = {path.name: read_graph(path, folder).digest for path in (encoder, decoder)}
    write_json(folder / CONFIG, replace(config, sha256=digests).as_dict())


def _write_graph(
    path: Path, module: nn.Module, shape: tuple[int, ...], factor: int, inputs: list[str], outputs: list[str]
) -> None:
    """Write the graph of a module for any batch, and with a factor for any height and width."""
    dimensions: dict[int, Any] = {0: Dim.DYNAMIC}
    if factor:
        dimensions |= {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    try:
        with _suppressed_logging():
            program = torch.onnx.export(
                module,
                (torch.rand(EXAMPLE_ROWS, *shape),),
                input_names=inputs,
                output_names=outputs,
                dynamo=True,
                dynamic_shapes=(dimensions,),
                verbose=False,
            )
    except ModuleNotFoundError as error:
        raise ExportError(f"{error}; install it with pip install 'vae-service[export]'") from None
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(
            f"{path.stem}: torch cannot export the module: {_summary(error.__cause__ or error)}"
        ) from error
    assert program is not None  # noqa: S101  # as torch says of its new exporter
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # they name the source files of this machine
    program.save(path, external_data=sum(weight.nbytes for weight in module.parameters()) > LARGE_BYTES)


@contextmanager
def _suppressed_logging() -> Iterator[None]:
    """Suppress what torch warns of and logs about itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _summary(error: BaseException) -> str:
    """Return the first two lines of an error of torch; the others are advice on how to debug torch."""
    return " ".join(line.strip() for line in str(error).splitlines()[:2]) or type(error).__name__


@torch.inference_mode()
def _compare(folder: Path, modules: _Modules, size: tuple[int, ...]) -> None:
    """Compare the pair in a folder with its modules on random images of a size, and of another one, and latents."""
    pair = read_pair(folder, Origin.of_folder(folder))
    reference = OpenedPair(pair.spec, pair.config, partial(_called, modules.encoder), partial(_called, modules.decoder))
    for height, width in _sizes(pair.spec, *size):
        for rows in COMPARED_ROWS:
            x = torch.rand(rows, pair.spec.channels, height, width)
            z = torch.randn(rows, *pair.spec.sizes.latents_of(height, width))
            for name, found, expected in zip(OUTPUTS, _outputs(pair, x, z), _outputs(reference, x, z), strict=True):
                _require_equal(name, found, expected)


OUTPUTS = ("mean of the posterior", "logvar of the posterior", "image")


def _outputs(model: ImageModel, x: Tensor, z: Tensor) -> tuple[Tensor, ...]:
    q = model.posterior(x)
    return q.mean, torch.zeros(1) if q.logvar is None else q.logvar, model.likelihood(z).mean


def _require_equal(name: str, found: Tensor, expected: Tensor) -> None:
    difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1))
    if not difference <= TOLERANCE:  # neither for NaN
        shape = tuple(found.shape)
        hint = "the graph computes other numbers than the module"
        raise ExportError(f"{hint}: {name} of {shape} differs by {difference:.2g}, expected at most {TOLERANCE}")


def _sizes(spec: ModelSpec, height: int, width: int) -> list[tuple[int, int]]:
    """Return the sizes of images in which graphs and modules are compared."""
    if isinstance(spec.sizes, FixedSize):
        return [(height, width)]
    return [(height, width), spec.sizes.fitted(height + spec.sizes.factor, width)]


def _move(written: Path, folder: Path) -> None:
    """Replace the files of a folder, config.json last."""
    for file in sorted(written.iterdir(), key=lambda file: (file.name == CONFIG, file.name)):
        file.replace(folder / file.name)
