"""Whole data sets offline: images to latents on disk, latents to images, and reconstructions."""

from app.datasets.encode import EncodeSummary, encode_dataset
from app.datasets.options import EncodeOptions, Hardware, Progress

__all__ = ["EncodeOptions", "EncodeSummary", "Hardware", "Progress", "encode_dataset"]
