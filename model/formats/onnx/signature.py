"""Comparison of the inputs and outputs of two graphs with the config of their pair."""

from typing import TypeVar

from model.files import CheckpointError
from model.formats.onnx.config import DecoderOutput, EncoderOutput, Layout, PairConfig
from model.formats.onnx.graph import Dimensions, Graph, Value, written
from model.likelihoods import FAMILIES

Side = TypeVar("Side")


def batch_of(value: Value) -> int | None:
    """Return the batch size that a graph is fixed to, None for any."""
    return value.shape[0] if value.shape else None


def check_signatures(config: PairConfig, encoder: Graph, decoder: Graph) -> None:
    """Compare the inputs and outputs of both graphs with the config. Raises `CheckpointError`."""
    image, latent = _of_any_size(config, config.image_shape), _of_any_size(config, config.latent_shape)
    _check_input(encoder, config, image)
    _check_input(decoder, config, latent)
    _check_outputs(encoder, config, 1 + (config.encoder_output == EncoderOutput.MEAN_LOGVAR), _encoded(config, latent))
    _check_outputs(decoder, config, 1, _decoded(config, image))


def decoder_channels(config: PairConfig) -> int:
    """Return the number of channels of the decoder's output."""
    per_channel = 1
    if config.decoder_output == DecoderOutput.LOGITS and config.likelihood is not None:
        per_channel = FAMILIES[config.likelihood].params_per_channel
    return config.image_shape[0] * per_channel


def _of_any_size(config: PairConfig, shape: tuple[int, ...]) -> Dimensions:
    """Return a shape, without its sides if the pair has no fixed size."""
    return (shape[0], None, None) if config.factor else shape


def _encoded(config: PairConfig, latent: Dimensions) -> Dimensions:
    doubled = config.encoder_output == EncoderOutput.MOMENTS
    return (config.latent_shape[0] * (1 + doubled), *latent[1:])


def _decoded(config: PairConfig, image: Dimensions) -> Dimensions:
    return (decoder_channels(config), *image[1:])


def _check_input(graph: Graph, config: PairConfig, shape: Dimensions) -> None:
    if batch_of(graph.input) not in (None, 1):
        raise CheckpointError(f"{graph.path}: expected batches of any size, or of 1, got {graph.input}")
    _check_value(graph, graph.input, config, shape, exact=True)


def _check_outputs(graph: Graph, config: PairConfig, count: int, shape: Dimensions) -> None:
    if len(graph.outputs) != count:
        found = "; ".join(map(str, graph.outputs)) or "none"
        raise CheckpointError(f"{graph.path}: expected {count} output{'s' * (count != 1)}, got {found}")
    for value in graph.outputs:
        _check_value(graph, value, config, shape, exact=False)


def _check_value(graph: Graph, value: Value, config: PairConfig, shape: Dimensions, *, exact: bool) -> None:
    """Compare an input or output with a shape in channels-first order; a graph need not declare that of an output.

    With `exact`, a dimension that the config leaves open must be open in the graph.
    """
    expected = (None, *in_layout(config, shape))
    declared = value.shape
    if declared is None:
        agrees = not exact
    else:
        pairs = zip(declared[1:], expected[1:], strict=False)
        agrees = len(declared) == len(expected) and all(_agree(got, want, exact=exact) for got, want in pairs)
    if not agrees:
        raise CheckpointError(f"{graph.path}: {value}: config.json expects {written(expected)}")


def in_layout(config: PairConfig, shape: tuple[Side, ...]) -> tuple[Side, ...]:
    """Return the shape of an image or latent, without the batch, in the layout of the graphs."""
    return (*shape[1:], shape[0]) if config.layout == Layout.NHWC else shape


def _agree(declared: int | None, expected: int | None, *, exact: bool) -> bool:
    return declared is None or declared == expected or (expected is None and not exact)
