"""The work of every peer: one forward pass for the bodies of a batch."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from PIL import Image
from torch import Tensor

from model.checkpoint import read_checkpoint
from model.gaussian import DiagonalGaussian

OPERATIONS = ("encode", "decode", "reconstruct")
MEDIA = {"encode": "application/json", "decode": "image/png", "reconstruct": "image/png"}


def model_folder() -> Path:
    """The folder of the model that the benchmark serves."""
    return Path(os.environ["BENCH_MODEL"])


def port() -> int:
    """The port of the peer."""
    return int(os.environ["BENCH_PORT"])


def setting(name: str) -> int:
    """One of PROCESSES, THREADS, BATCH and WAIT_MS, as `benchmarks.systems.Setting` passes them."""
    return int(os.environ[f"BENCH_{name}"])


class Work:
    """One operation of the model: `Work("encode")([png, ...])` returns a response body for each."""

    def __init__(self, operation: str, threads: int) -> None:
        torch.set_num_threads(threads)
        checkpoint = read_checkpoint(model_folder())
        self.vae = checkpoint.vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs
        self.model = checkpoint.identity
        self._mode = "L" if self.vae.config.image_shape[0] == 1 else "RGB"
        verbs: dict[str, tuple[Callable[[Any], np.ndarray], Callable[[Tensor], Sequence[bytes]]]] = {
            "encode": (self.read_png, self.encode),
            "decode": (self.read_latent, self.decode),
            "reconstruct": (self.read_png, self.reconstruct),
        }
        self._read, self._answer = verbs[operation]

    @torch.inference_mode()
    def __call__(self, bodies: Sequence[bytes]) -> Sequence[bytes]:
        return self._answer(torch.from_numpy(np.stack([self._read(body) for body in bodies])))

    def read_png(self, body: bytes) -> np.ndarray:
        """uint8 [C, H, W]."""
        pixels = np.asarray(Image.open(io.BytesIO(body)).convert(self._mode))
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def read_latent(self, body: bytes | dict[str, Any]) -> np.ndarray:
        """float32 [D]."""
        content = body if isinstance(body, dict) else orjson.loads(body)
        return np.array(content["latents"][0], np.float32)

    def encode(self, pixels: Tensor) -> Sequence[bytes]:
        """Each image's posterior as JSON."""
        q = self.posterior(pixels)
        rows = zip(q.mean.numpy(), q.logvar.numpy(), strict=True)
        shape = self.vae.config.latent_shape
        answers = ({"latents": [{"mean": m, "logvar": v}], "shape": shape, "model": self.model} for m, v in rows)
        return [orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY) for answer in answers]

    def decode(self, latents: Tensor) -> Sequence[bytes]:
        """Each latent's mean image as PNG."""
        levels = (self.vae.likelihood(latents).mean * 255).round().to(torch.uint8)
        return [_png(image) for image in levels.numpy()]

    def reconstruct(self, pixels: Tensor) -> Sequence[bytes]:
        """The mean image at each image's posterior mean, as PNG."""
        return self.decode(self.posterior(pixels).mean)

    def posterior(self, pixels: Tensor) -> DiagonalGaussian:
        """q(z|x) of uint8 [N, C, H, W]."""
        q: DiagonalGaussian = self.vae.posterior((pixels.float() / 255).contiguous(memory_format=torch.channels_last))
        return q


def _png(pixels: np.ndarray) -> bytes:
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()
