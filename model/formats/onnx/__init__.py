"""Pairs of ONNX graphs, encoder.onnx and decoder.onnx, as image models."""

from model.formats.onnx.folder import read

__all__ = ["read"]
