"""Small pairs of ONNX graphs, built without an exporter."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, shape_inference
from torch import nn

from app.runtimes.onnx_export import Graph

Dimensions = Sequence[int | str]


def seeded(network: nn.Sequential, seed: int = 0) -> nn.Sequential:
    """The network with random weights, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.5 / max(1, weight[0].numel()) ** 0.5)
    return network.eval()


VECTOR = {"image_shape": (1, 8, 8), "latent_shape": (3,), "encoder_output": "mean_logvar"}
VECTOR_ENCODER = seeded(nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.SiLU(), nn.Linear(16, 6)))
VECTOR_DECODER = seeded(nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 64), nn.Unflatten(1, (1, 8, 8))))
"""Images of one size and latents that are vectors."""

SPATIAL = {
    "image_shape": (3, 16, 16),
    "latent_shape": (2, 4, 4),
    "encoder_output": "moments",
    "factor": 4,
    "minimum": 4,
    "maximum": 64,
    "pixel_range": (-1, 1),
}
SPATIAL_ENCODER = seeded(nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.SiLU(), nn.Conv2d(8, 4, 4, 2, 1)))
SPATIAL_DECODER = seeded(nn.Sequential(nn.ConvTranspose2d(2, 8, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1)))
"""Images of many sizes and latents with a height and a width."""


def graph_of(network: nn.Sequential, shape: Dimensions, *, batch: int | str = "B", split: bool = False) -> ModelProto:
    """The graph of a network from [B, *shape]; with `split` its output is cut into mean and logvar."""
    graph = Graph()
    y = graph.network(network, "x")
    names = ["mean", "logvar"] if split else ["y"]
    values = graph.nodes("Split", 2, y, axis=1) if split else [y]
    return declared(graph.model({"x": (TensorProto.FLOAT, shape)}, dict(zip(names, values, strict=True))), batch)


def channels_last(network: nn.Sequential, shape: Dimensions) -> ModelProto:
    """The graph of a network from [B, H, W, C] to the same layout."""
    graph = Graph()
    y = graph.network(network, graph.node("Transpose", "x", perm=(0, 3, 1, 2)))
    outputs = {"y": graph.node("Transpose", y, perm=(0, 2, 3, 1))}
    return declared(graph.model({"x": (TensorProto.FLOAT, shape)}, outputs))


def declared(model: ModelProto, batch: int | str = "B") -> ModelProto:
    """The model with the types of its outputs, and with its batch size if that is fixed."""
    if isinstance(batch, int):
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    return shape_inference.infer_shapes(model)


def write_graphs(folder: Path, encoder: ModelProto, decoder: ModelProto, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(encoder, folder / "encoder.onnx")
    onnx.save(decoder, folder / "decoder.onnx")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_vector_pair(folder: Path, **config: Any) -> Path:
    """A pair of images of one size, 1x8x8, and latents of 3 values."""
    encoder = graph_of(VECTOR_ENCODER, VECTOR["image_shape"], split=True)
    return write_graphs(folder, encoder, graph_of(VECTOR_DECODER, VECTOR["latent_shape"]), **(VECTOR | config))


def write_spatial_pair(folder: Path, **config: Any) -> Path:
    """A pair of images of sizes that are multiples of 4, and latents of 2 channels."""
    encoder, decoder = graph_of(SPATIAL_ENCODER, (3, "H", "W")), graph_of(SPATIAL_DECODER, (2, "h", "w"))
    return write_graphs(folder, encoder, decoder, **(SPATIAL | config))


def write_attention_pair(folder: Path, **config: Any) -> Path:
    """The spatial pair, of which the encoder ends in attention over all latents, as products and a softmax."""
    graph = Graph()
    y = graph.network(SPATIAL_ENCODER, "x")
    shape, lengths = graph.node("Shape", y), graph.weight(np.array([0, 4, -1]))
    keys = graph.node("Reshape", y, lengths)
    values = graph.node("Transpose", keys, perm=(0, 2, 1))
    weights = graph.node("Softmax", graph.node("MatMul", values, keys), axis=-1)
    mixed = graph.node("Transpose", graph.node("MatMul", weights, values), perm=(0, 2, 1))
    outputs = {"y": graph.node("Reshape", mixed, shape)}
    encoder = declared(graph.model({"x": (TensorProto.FLOAT, (3, "H", "W"))}, outputs))
    return write_graphs(folder, encoder, graph_of(SPATIAL_DECODER, (2, "h", "w")), **(SPATIAL | config))


def write_optimum_pair(folder: Path, **config: Any) -> Path:
    """The spatial pair in the folders of optimum, with the config of a diffusers autoencoder."""
    values = {"in_channels": 3, "latent_channels": 2, "block_out_channels": [8, 8, 8], "sample_size": 16, **config}
    for name, network, shape in (
        ("vae_encoder", SPATIAL_ENCODER, (3, "H", "W")),
        ("vae_decoder", SPATIAL_DECODER, (2, "h", "w")),
    ):
        (folder / name).mkdir(parents=True)
        onnx.save(graph_of(network, shape), folder / name / "model.onnx")
        (folder / name / "config.json").write_text(json.dumps(values))
    return folder
