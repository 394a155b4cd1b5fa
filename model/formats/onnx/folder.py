"""Folders with a pair of ONNX graphs, in the layout of this project or in that of optimum.

Of this project: encoder.onnx, decoder.onnx and config.json with the fields of `PairConfig`. Of optimum: the folders
vae_encoder and vae_decoder, each with model.onnx and the config.json of a diffusers autoencoder.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from model.config import ConfigError
from model.files import CONFIG, CheckpointError, read_json
from model.formats.diffusers_config import MAX_SIDE, check_config, default_side, latent_scaling
from model.formats.onnx.config import EncoderOutput, PairConfig
from model.formats.onnx.graph import Graph, read_graph
from model.formats.onnx.pair import OnnxPair
from model.formats.onnx.signature import check_signatures
from model.formats.onnx_files import OPTIMUM_PAIR, PAIR, own_layout
from model.interface import FixedSize, LatentScaling, ModelSpec, MultipleOfFactor, Origin, StoredModel

FORMAT = "onnx"


class _Pair(NamedTuple):
    """A pair as it was read: the values of config.json, the config that they mean, and both graphs."""

    values: Mapping[str, Any]
    config: PairConfig
    encoder: Graph
    decoder: Graph


def read(folder: Path, origin: Origin) -> StoredModel:
    """Read the pair in a folder as `read_pair` does."""
    return StoredModel(read_pair(folder, origin))


def read_pair(folder: Path, origin: Origin) -> OnnxPair:
    """Read the pair in a folder of either layout, and check its graphs.

    Raises `CheckpointError` for a config or a graph that is missing, damaged, inconsistent, or not allowed.
    """
    pair = _read_own(folder, origin.root) if own_layout(folder) else _read_optimum(folder, origin.root)
    check_signatures(pair.config, pair.encoder, pair.decoder)
    return OnnxPair(_spec(origin, pair), pair.config, pair.encoder, pair.decoder)


def _read_own(folder: Path, root: Path) -> _Pair:
    values = read_json(folder / CONFIG)
    try:
        config = PairConfig.from_dict(values)
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from None
    graphs = [read_graph(folder / name, root) for name in PAIR]
    for graph in graphs:
        if config.sha256.get(graph.path.name, graph.digest) != graph.digest:
            raise CheckpointError(f"{graph.path}: written with another {CONFIG}, which names other digests")
    return _Pair(values, config, *graphs)


def _read_optimum(folder: Path, root: Path) -> _Pair:
    path = (folder / OPTIMUM_PAIR[0]).with_name(CONFIG)
    values = read_json(path)
    encoder, decoder = (read_graph(folder / name, root) for name in OPTIMUM_PAIR)
    try:
        return _Pair(values, _optimum_config(values, encoder), encoder, decoder)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"{path}: expected the config of a diffusers autoencoder, got {error!r}") from None


def _optimum_config(values: Mapping[str, Any], encoder: Graph) -> PairConfig:
    """Return the config of a pair that optimum exported; the encoder gives moments, or a code without a variance."""
    check_config(values)
    factor = 2 ** (len(values["block_out_channels"]) - 1)
    side, channels = default_side(values, factor), values["latent_channels"]
    shape = encoder.outputs[0].shape if encoder.outputs else None
    is_code = shape is not None and len(shape) == 4 and shape[1] == channels
    scaling = latent_scaling(values)
    return PairConfig(
        image_shape=(values["in_channels"], side, side),
        latent_shape=(channels, side // factor, side // factor),
        encoder_output=EncoderOutput.CODE if is_code else EncoderOutput.MOMENTS,
        factor=factor,
        minimum=2 * factor,
        maximum=MAX_SIDE // factor * factor,
        pixel_range=(-1.0, 1.0),
        scaling_factor=scaling.scale,
        shift_factor=scaling.shift,
        prior=False,
    )


def _spec(origin: Origin, pair: _Pair) -> ModelSpec:
    config = pair.config
    return ModelSpec(
        name=origin.name,
        digest=_digest(pair),
        format=FORMAT,
        source=origin.source,
        channels=config.image_shape[0],
        sizes=_sizes(config),
        likelihood=config.likelihood,
        parameters=pair.encoder.parameters + pair.decoder.parameters,
        has_variance=config.encoder_output != EncoderOutput.CODE,
        has_prior=config.prior,
        scaling=LatentScaling(config.scaling_factor, config.shift_factor),
        architecture=pair.values,
    )


def _sizes(config: PairConfig) -> FixedSize | MultipleOfFactor:
    _, height, width = config.image_shape
    if not config.factor:
        return FixedSize((height, width), config.latent_shape)
    side = min(height, width)
    return MultipleOfFactor(config.factor, config.minimum, config.maximum, config.latent_shape[0], side)


def _digest(pair: _Pair) -> str:
    """Return the SHA-256 over the config and the digests of both graphs."""
    text = json.dumps(dict(pair.values), sort_keys=True, separators=(",", ":"))
    lines = [text, pair.encoder.digest, pair.decoder.digest]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
