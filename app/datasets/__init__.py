"""Whole data sets offline: images to latents on disk, latents to images, and reconstructions."""

from app.datasets.decode import ImageOptions, ImagesSummary, decode_dataset, reconstruct_dataset
from app.datasets.encode import EncodeSummary, encode_dataset
from app.datasets.options import EncodeOptions, Hardware, Progress

__all__ = [
    "EncodeOptions",
    "EncodeSummary",
    "Hardware",
    "ImageOptions",
    "ImagesSummary",
    "Progress",
    "decode_dataset",
    "encode_dataset",
    "reconstruct_dataset",
]
