"""Request bodies: one image or one latent, and 256 images."""

import io
import json
from dataclasses import dataclass

import numpy as np
from PIL import Image

from model.config import VAEConfig

BULK = 256


@dataclass(frozen=True, slots=True)
class Payload:
    """The body of a POST to an endpoint, and its content type."""

    path: str
    body: bytes
    media: str
    accept: str = "*/*"


def singles(config: VAEConfig) -> dict[str, Payload]:
    """A request with one item for each operation."""
    latent = np.random.default_rng(0).standard_normal(config.latent_shape).astype(np.float32)
    image = png(_image(config))
    return {
        "encode": Payload("/encode", image, "image/png"),
        "decode": Payload("/decode", json.dumps({"latents": [latent.tolist()]}).encode(), "application/json"),
        "reconstruct": Payload("/reconstruct", image, "image/png"),
    }


def bulk(config: VAEConfig) -> Payload:
    """A request with `BULK` images as an array; the response is an array too."""
    images = np.repeat(_image(config)[None], BULK, axis=0)
    stream = io.BytesIO()
    np.save(stream, images)
    return Payload("/encode", stream.getvalue(), "application/x-npy", "application/x-npy")


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
