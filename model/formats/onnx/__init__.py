"""Pairs of ONNX graphs, encoder.onnx and decoder.onnx: read as image models, and exported from torch modules."""

from model.formats.onnx.exporter import export
from model.formats.onnx.folder import read

__all__ = ["export", "read"]
