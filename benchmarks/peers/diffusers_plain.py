"""A plain server for an autoencoder of diffusers: FastAPI, no batching, the calls of diffusers where the request is."""

import io
from typing import Any

import diffusers
import numpy as np
import torch
import uvicorn
from diffusers.image_processor import VaeImageProcessor
from fastapi import FastAPI, Request, Response
from PIL import Image

from benchmarks.peers.work import model_folder, port, setting


def create() -> FastAPI:
    """The application, whose POST /encode answers mean and logvar of a PNG as an array."""
    torch.set_num_threads(setting("THREADS"))
    app, processor = FastAPI(), VaeImageProcessor()
    autoencoder: Any = diffusers.AutoencoderKL
    vae = autoencoder.from_pretrained(model_folder()).eval()

    @torch.inference_mode()
    def encoded(body: bytes) -> bytes:
        image = Image.open(io.BytesIO(body)).convert("RGB")
        posterior = vae.encode(processor.preprocess(image)).latent_dist
        stream = io.BytesIO()
        np.save(stream, np.stack([posterior.mean.numpy(), posterior.logvar.numpy()]))
        return stream.getvalue()

    async def answer(request: Request) -> Response:
        return Response(encoded(await request.body()), media_type="application/x-npy")

    app.post("/encode")(answer)
    return app


if __name__ == "__main__":
    uvicorn.run(
        "benchmarks.peers.diffusers_plain:create",
        factory=True,
        port=port(),
        workers=setting("PROCESSES"),
        timeout_worker_healthcheck=60,
        access_log=False,
        log_level="error",
    )
