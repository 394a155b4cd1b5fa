"""Request bodies: one image or one latent, and 256 images."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from model.config import VAEConfig

BULK = 256


@dataclass(frozen=True, slots=True)
class Payload:
    """The body of a POST to an endpoint, its content type, and more headers."""

    path: str
    body: bytes
    media: str
    accept: str = "*/*"
    headers: Mapping[str, str] = field(default_factory=dict)


def singles(config: VAEConfig) -> dict[str, Payload]:
    """A request with one item for each operation."""
    latent = np.random.default_rng(0).standard_normal(config.latent_shape).astype(np.float32)
    image = png(_image(config))
    return {
        "encode": Payload("/encode", image, "image/png"),
        "decode": Payload("/decode", json.dumps({"latents": [latent.tolist()]}).encode(), "application/json"),
        "reconstruct": Payload("/reconstruct", image, "image/png"),
    }


def bulk(config: VAEConfig, operation: str = "encode", count: int = BULK) -> Payload:
    """A request with so many images as an array; the response is an array too."""
    stream = io.BytesIO()
    np.save(stream, np.repeat(_image(config)[None], count, axis=0))
    return Payload(f"/{operation}", stream.getvalue(), "application/x-npy", "application/x-npy")


def bulk_inference(config: VAEConfig, operation: str = "encode", count: int = BULK) -> Payload:
    """The same request in the Open Inference Protocol, with binary tensors in and out."""
    images = np.repeat(_image(config)[None], count, axis=0)
    tensor = {"name": "images", "datatype": "UINT8", "shape": images.shape}
    sent = {**tensor, "parameters": {"binary_data_size": images.nbytes}}
    text = json.dumps({"inputs": [sent], "parameters": {"binary_data_output": True}}).encode()
    length = {"Inference-Header-Content-Length": str(len(text))}
    return Payload(f"/v2/models/{operation}/infer", text + images.tobytes(), "application/octet-stream", headers=length)


def _image(config: VAEConfig) -> np.ndarray:
    """An image of stripes, uint8 [H, W, C], which compresses like a drawing."""
    channels, height, width = config.image_shape
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [np.sin(12 * x + k) * np.cos(9 * y - k) > 0.2 for k in range(channels)]
    return (np.stack(waves, axis=-1) * 255).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """Return an image, uint8 [H, W, C], as PNG."""
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()
