"""What is sent: one picture or one latent a request, and 256 pictures at once."""

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
    """One item for each operation."""
    latent = np.random.default_rng(0).standard_normal(config.latent_shape).astype(np.float32)
    picture = _png(_picture(config))
    return {
        "encode": Payload("/encode", picture, "image/png"),
        "decode": Payload("/decode", json.dumps({"latents": [latent.tolist()]}).encode(), "application/json"),
        "reconstruct": Payload("/reconstruct", picture, "image/png"),
    }


def bulk(config: VAEConfig) -> Payload:
    """`BULK` images as an array, for latents as an array."""
    pictures = np.repeat(_picture(config)[None], BULK, axis=0)
    stream = io.BytesIO()
    np.save(stream, pictures)
    return Payload("/encode", stream.getvalue(), "application/x-npy", "application/x-npy")


def _picture(config: VAEConfig) -> np.ndarray:
    """Strokes of three frequencies, uint8 [H, W, C]: compresses like a drawing, not like noise."""
    channels, height, width = config.image_shape
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [np.sin(12 * x + k) * np.cos(9 * y - k) > 0.2 for k in range(channels)]
    return (np.stack(waves, axis=-1) * 255).astype(np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()
