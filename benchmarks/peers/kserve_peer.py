"""KServe's Python server: the Open Inference Protocol with binary tensors, without batching."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

from benchmarks.peers.work import Work, port, setting

DATATYPES = {"float32": "FP32", "uint8": "UINT8"}


class Inference(Model):
    """One operation on images, uint8 [N, H, W, C]."""

    def __init__(self, operation: str) -> None:
        super().__init__(operation)
        self.work = Work(operation, setting("THREADS"))
        self.ready = True

    async def predict(self, payload: InferRequest, *_: Any, **__: Any) -> InferResponse:
        """Return mean and logvar, or images, as binary tensors."""
        pixels = payload.inputs[0].as_numpy().transpose(0, 3, 1, 2)
        outputs = []
        for name, values in self.compute(torch.from_numpy(np.ascontiguousarray(pixels))).items():
            output = InferOutput(name, list(values.shape), DATATYPES[values.dtype.name])
            output.set_data_from_numpy(values, binary_data=True)
            outputs.append(output)
        return InferResponse(payload.id or "", self.name, outputs, use_binary_outputs=payload.use_binary_outputs)

    @torch.inference_mode()
    def compute(self, pixels: torch.Tensor) -> Mapping[str, np.ndarray]:
        """Return the outputs by their names."""
        q = self.work.posterior(pixels)
        if self.name == "encode":
            return {"mean": q.mean.numpy(), "logvar": q.logvar.numpy()}
        levels = (self.work.vae.likelihood(q.mean).mean * 255).round().to(torch.uint8)
        return {"images": np.ascontiguousarray(levels.numpy().transpose(0, 2, 3, 1))}


if __name__ == "__main__":
    ModelServer(http_port=port(), workers=setting("PROCESSES"), enable_grpc=False, access_log_format=None).start(
        [Inference(operation) for operation in ("encode", "reconstruct")]
    )
