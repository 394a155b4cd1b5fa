"""Conversion of an autoencoder of diffusers to a pair of ONNX graphs, which ONNX Runtime computes faster on a CPU."""

from pathlib import Path

from model.formats.diffusers import DecoderModule, DiffusersModel, EncoderModule
from model.formats.onnx.exporter import ExportError, export
from model.interface import ImageModel, ModelSpec, MultipleOfFactor


def convert(model: ImageModel, folder: Path) -> ModelSpec:
    """Write a model as a pair of graphs and compare both, as `export` does. Takes minutes.

    Raises `ExportError` for a model of another format, or with units that the config of a pair does not describe.
    """
    spec = model.spec
    if not isinstance(model, DiffusersModel) or not isinstance(spec.sizes, MultipleOfFactor):
        raise ExportError(f"expected an autoencoder of diffusers, got a model in the format {spec.format}")
    if spec.scaling.patch != (1, 1):
        raise ExportError(f"{spec.identity} has units of patches of latents, which no config of a pair describes")
    return export(
        EncoderModule(model),
        DecoderModule(model),
        folder,
        image_shape=spec.image_shape,
        latent_shape=spec.latent_shape,
        pixel_range=(-1.0, 1.0),
        factor=spec.sizes.factor,
        scaling_factor=spec.scaling.scale,
        shift_factor=spec.scaling.shift,
        prior=False,
    )
